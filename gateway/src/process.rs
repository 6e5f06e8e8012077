//! Figures of the process itself, read from `/proc` at each scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Clock ticks a second in `/proc/self/stat`: fixed at 100 on Linux (`USER_HZ`), whatever the kernel's own.
const TICKS_PER_SECOND: f64 = 100.0;

/// Named as Prometheus' own client libraries name them. Where there is no `/proc` it says nothing.
#[derive(Debug)]
pub struct Process;

struct Figures {
    cpu_seconds: f64,
    resident_bytes: i64,
    open_files: i64,
    threads: i64,
}

impl Process {
    fn read() -> Option<Figures> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The command may hold spaces and brackets; what follows its last bracket does not.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let resident_kib: i64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .ok()?;
        let open_files = std::fs::read_dir("/proc/self/fd").ok()?.count();
        #[expect(clippy::cast_possible_truncation, reason = "a number of threads")]
        Some(Figures {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            resident_bytes: resident_kib * 1024,
            open_files: i64::try_from(open_files).ok()?,
            threads: field(20)? as i64,
        })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(figures) = Self::read() else {
            return Ok(());
        };
        let cpu = ConstCounter::new(figures.cpu_seconds);
        let metric = encoder.encode_descriptor(
            "process_cpu_seconds",
            "Time on a processor, user and system",
            None,
            cpu.metric_type(),
        )?;
        cpu.encode(metric)?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory",
                figures.resident_bytes,
            ),
            (
                "process_open_fds",
                "Open file descriptors",
                figures.open_files,
            ),
            ("process_threads", "Threads", figures.threads),
        ] {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_knows_itself() {
        let figures = Process::read().expect("Linux has /proc");
        assert!(figures.resident_bytes > 0 && figures.open_files > 0 && figures.threads > 0);
        assert!(figures.cpu_seconds < 3_600.0);
    }
}
