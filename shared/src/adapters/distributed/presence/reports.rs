//! What pods report of themselves, and the totals of all there ever were.

use std::time::Duration;

use fred::prelude::*;

use super::RedisPresence;
use crate::adapters::distributed::redis::port_error;
use crate::domain::ids::PodId;
use crate::ports::{Reports, Result};

impl RedisPresence {
    fn report_keys(&self) -> Vec<String> {
        ["reports", "totals"]
            .iter()
            .map(|what| format!("{}:{{pods}}:{what}", self.redis.namespace))
            .collect()
    }

    pub(super) async fn put_report(
        &self,
        pod: PodId,
        report: &str,
        lease: Duration,
        add: &[(&'static str, u64)],
    ) -> Result<()> {
        let mut args: Vec<Value> = vec![
            pod.to_string().into(),
            lease.as_millis().to_string().into(),
            report.into(),
        ];
        for (name, amount) in add {
            args.push((*name).into());
            args.push(amount.to_string().into());
        }
        self.scripts
            .report
            .call(&self.redis, self.report_keys(), args)
            .await
            .map_err(|e| port_error("report figures", e))?;
        Ok(())
    }

    pub(super) async fn read_reports(&self) -> Result<Reports> {
        let (live, totals): (Vec<String>, Vec<(String, u64)>) = self
            .scripts
            .reports
            .call(&self.redis, self.report_keys(), Vec::new())
            .await
            .and_then(FromValue::from_value)
            .map_err(|e| port_error("read figures", e))?;
        Ok(Reports {
            live,
            totals: totals.into_iter().collect(),
        })
    }
}
