//! The attacks. Adding one is adding a row; numbers are system calls of x86_64.

use super::Control::{Bare, OwnMounts};
use super::Probe;

macro_rules! probes {
    ($(($name:literal, $control:expr, $source:expr)),* $(,)?) => {
        &[$(Probe { name: $name, control: $control, source: $source }),*]
    };
}

pub const PROBES: &[Probe] = probes![
    // The host's files.
    ("read_shadow", Bare, "opens('/etc/shadow')"),
    (
        "stat_host_files",
        Bare,
        "attempt(lambda: os.stat('/etc/shadow'), 'the size of the passwords')"
    ),
    ("list_root_home", Bare, "lists('/root')"),
    (
        "list_home_var_srv_run_boot",
        Bare,
        "[lists(p) for p in ('/home', '/var', '/srv', '/run', '/boot', '/mnt', '/media')]"
    ),
    ("list_sys", Bare, "lists('/sys')"),
    (
        "host_accounts",
        Bare,
        "if 'daemon' in open('/etc/passwd').read(): escaped('host accounts')"
    ),
    (
        "host_configuration",
        Bare,
        "[opens(p) for p in ('/etc/fstab', '/etc/resolv.conf', '/etc/machine-id', '/etc/ssh/sshd_config', '/etc/crontab')]"
    ),
    ("name_of_the_system", Bare, "opens('/etc/os-release')"),
    (
        "write_usr",
        Bare,
        "for folder, _, files in os.walk('/usr/share/doc'):\n    for name in files[:1]: opens(os.path.join(folder, name), os.O_WRONLY)\n    if got: break"
    ),
    ("write_etc", Bare, "opens('/etc/passwd', os.O_WRONLY)"),
    (
        "make_folder_at_root",
        Bare,
        "attempt(lambda: (os.mkdir('/.probe'), os.rmdir('/.probe')), 'made a folder in /')"
    ),
    (
        "rename_over_configuration",
        Bare,
        "attempt(lambda: (open('/etc/.probe', 'w').close(), os.unlink('/etc/.probe')), 'made a file in /etc')"
    ),
    (
        "dotdot_out_of_the_root",
        Bare,
        "fd = os.open('/', os.O_RDONLY)\nos.chdir('/')\nfor _ in range(64): os.chdir('..')\nlists('.', ('bin', 'dev', 'etc', 'lib', 'lib32', 'lib64', 'libx32', 'sbin', 'opt', 'proc', 'tmp', 'usr', 'box'))"
    ),
    (
        "open_by_handle",
        Bare,
        "handle = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + b'\\0' * 128)\nmount = ctypes.c_int()\nreached(303, -100, b'/usr', handle, ctypes.addressof(mount), 0)"
    ),
    (
        "open_by_handle_at",
        Bare,
        "handle = ctypes.create_string_buffer(struct.pack('Ii', 8, 1) + b'\\2' + b'\\0' * 135)\nreached(304, os.open('/', os.O_RDONLY), handle, 0)"
    ),
    (
        "chroot",
        Bare,
        "in_child(lambda: (os.chroot('/'), escaped('chroot')))"
    ),
    (
        "own_program_file_of_the_box",
        Bare,
        "opens(f'/proc/{FIRST}/exe')"
    ),
    (
        "root_of_the_first_process",
        Bare,
        "lists(f'/proc/{FIRST}/root')"
    ),
    (
        "memory_of_the_first_process",
        Bare,
        "opens(f'/proc/{FIRST}/mem')"
    ),
    (
        "descriptors_of_the_first_process",
        Bare,
        "lists(f'/proc/{FIRST}/fd')"
    ),
    // Processes and their secrets.
    (
        "environment_of_the_first_process",
        Bare,
        "attempt(lambda: open(f'/proc/{FIRST}/environ').read(), 'the environment of process 1')"
    ),
    (
        "environment_of_the_worker",
        Bare,
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n    try:\n        if SECRET[::-1] in open(f'/proc/{pid}/environ', errors='replace').read(): escaped(f'environment of {pid}')\n    except OSError: pass"
    ),
    (
        "see_other_processes",
        Bare,
        "count = sum(name.isdigit() for name in os.listdir('/proc'))\nif count > 2: escaped(f'{count} processes')"
    ),
    (
        "signal_the_worker",
        Bare,
        "attempt(lambda: os.kill(WORKER, 0), 'a signal to the worker')"
    ),
    (
        "signal_anybody",
        Bare,
        "own = (os.getpid(), 1)\nfor pid in range(2, 70000):\n    if pid in own: continue\n    try: os.kill(pid, 0)\n    except ProcessLookupError: continue\n    except PermissionError: pass\n    escaped(f'process {pid}'); break"
    ),
    (
        "processors_of_another",
        Bare,
        "attempt(lambda: os.sched_setaffinity(WORKER, os.sched_getaffinity(WORKER)), 'the processors of the worker')"
    ),
    (
        "shared_memory_of_the_machine",
        Bare,
        "result, error = call(30, MEMORY, 0, 0o10000)\nif not error: escaped('memory of the machine')"
    ),
    (
        "open_the_worker_as_pidfd",
        Bare,
        "attempt(lambda: os.pidfd_open(WORKER), 'a pidfd of the worker')"
    ),
    (
        "steal_a_descriptor",
        Bare,
        "fd = os.pidfd_open(os.getpid())\nreached(438, fd, 0, 0)"
    ),
    (
        "ptrace_traceme",
        Bare,
        "in_child(lambda: reached(101, 0, 0, 0, 0))"
    ),
    (
        "ptrace_attach_a_child",
        Bare,
        "import signal, time\npid = os.fork()\nif pid == 0:\n    time.sleep(30); os._exit(0)\nreached(101, 16, pid, 0, 0)\nos.kill(pid, signal.SIGKILL)"
    ),
    (
        "read_memory_of_a_process",
        Bare,
        "buffer = ctypes.create_string_buffer(8)\nvector = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(buffer), 8))\nreached(310, os.getpid(), vector, 1, vector, 1, 0)"
    ),
    (
        "write_memory_of_a_process",
        Bare,
        "buffer = ctypes.create_string_buffer(8)\nvector = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(buffer), 8))\nreached(311, os.getpid(), vector, 1, vector, 1, 0)"
    ),
    (
        "advise_memory_of_a_process",
        Bare,
        "reached(440, os.pidfd_open(os.getpid()), ctypes.create_string_buffer(16), 0, 20, 0)"
    ),
    (
        "compare_kernel_objects",
        Bare,
        "reached(312, os.getpid(), os.getpid(), 0, 0, 0)"
    ),
    (
        "limits_of_the_first_process",
        Bare,
        "reached(302, FIRST, 7, None, ctypes.create_string_buffer(16))"
    ),
    (
        "raise_priority",
        Bare,
        "in_child(lambda: (os.setpriority(os.PRIO_PROCESS, 0, -5), escaped('priority')))"
    ),
    (
        "real_time_scheduling",
        Bare,
        "in_child(lambda: (os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), escaped('real time')))"
    ),
    (
        "leave_traces_in_the_kernel_log",
        Bare,
        "opens('/dev/kmsg', os.O_WRONLY)"
    ),
    ("read_the_kernel_log", Bare, "reached(103, 10, None, 0)"),
    // Privilege.
    (
        "become_root",
        Bare,
        "in_child(lambda: (os.setresuid(0, 0, 0), escaped('uid 0')))"
    ),
    (
        "become_root_group",
        Bare,
        "in_child(lambda: (os.setresgid(0, 0, 0), escaped('gid 0')))"
    ),
    (
        "set_groups",
        Bare,
        "in_child(lambda: (os.setgroups([0]), escaped('groups')))"
    ),
    (
        "hold_capabilities",
        Bare,
        "held = [line for line in open('/proc/self/status') if line.startswith(('CapEff', 'CapPrm', 'CapBnd')) and int(line.split()[1], 16)]\nif held: escaped(held)"
    ),
    (
        "set_capabilities",
        Bare,
        "header = ctypes.create_string_buffer(struct.pack('Ii', 0x20080522, 0))\ndata = ctypes.create_string_buffer(24)\nin_child(lambda: reached(126, header, data))"
    ),
    (
        "set_user_id_program",
        Bare,
        "import subprocess\nsaid = subprocess.run(['/usr/bin/su', '-c', 'id -u'], stdin=subprocess.DEVNULL, capture_output=True, timeout=10).stdout\nif said == b'0\\n': escaped('su')"
    ),
    (
        "give_a_file_away",
        Bare,
        "attempt(lambda: os.chown('own', 12345, 12345), 'chown')"
    ),
    (
        "trusted_attributes",
        Bare,
        "attempt(lambda: os.setxattr('own', 'trusted.x', b'x'), 'a trusted attribute')"
    ),
    (
        "file_capabilities",
        Bare,
        "attempt(lambda: os.setxattr('own', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000')), 'file capabilities')"
    ),
    (
        "lock_memory",
        Bare,
        "attempt(lambda: (_ for _ in ()).throw(OSError) if LIBC.mlockall(3) else None, 'mlockall')"
    ),
    // Namespaces and mounts.
    (
        "unshare_user",
        Bare,
        "in_child(lambda: reached(272, 0x10000000))"
    ),
    (
        "unshare_mounts",
        Bare,
        "in_child(lambda: reached(272, 0x20000))"
    ),
    (
        "unshare_network",
        Bare,
        "in_child(lambda: reached(272, 0x40000000))"
    ),
    ("unshare_time", Bare, "in_child(lambda: reached(272, 0x80))"),
    (
        "unshare_by_program",
        Bare,
        "import subprocess\nif subprocess.run(['/usr/bin/unshare', '-Ur', 'true'], capture_output=True).returncode == 0: escaped('unshare')"
    ),
    (
        "clone_user",
        Bare,
        "def try_clone():\n    result = reached(56, 0x10000000 | 17, 0, 0, 0, 0)\n    if result == 0: os._exit(0)\nin_child(try_clone)"
    ),
    (
        "clone_with_high_bits",
        Bare,
        "def try_clone():\n    result = reached(56, 0x20000 | 17 | 1 << 40, 0, 0, 0, 0)\n    if result == 0: os._exit(0)\nin_child(try_clone)"
    ),
    (
        "clone3_user",
        Bare,
        "def try_clone():\n    arguments = ctypes.create_string_buffer(struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0))\n    result = reached(435, arguments, 64)\n    if result == 0: os._exit(0)\nin_child(try_clone)"
    ),
    (
        "enter_namespaces_of_the_first_process",
        Bare,
        "[attempt(lambda: os.open(f'/proc/{FIRST}/ns/{n}', os.O_RDONLY), n) for n in ('mnt', 'net', 'user')]"
    ),
    (
        "setns",
        Bare,
        "in_child(lambda: reached(308, os.open('/proc/self/ns/uts', os.O_RDONLY), 0))"
    ),
    (
        "mount_tmpfs",
        OwnMounts,
        "reached(165, b'x', b'/tmp', b'tmpfs', 0, None)"
    ),
    (
        "mount_proc",
        OwnMounts,
        "reached(165, b'x', b'/proc', b'proc', 0, None)"
    ),
    (
        "mount_cgroup",
        OwnMounts,
        "reached(165, b'x', b'/tmp', b'cgroup2', 0, None)"
    ),
    (
        "remount_writable",
        OwnMounts,
        "reached(165, b'x', b'/', b'', 32 | 4096, None)"
    ),
    (
        "uncover_by_unmounting",
        OwnMounts,
        "reached(166, b'/proc', 2)"
    ),
    ("pivot_root", OwnMounts, "reached(155, b'/', b'/')"),
    ("new_mount_calls", Bare, "reached(430, b'tmpfs', 0)"),
    ("open_tree", Bare, "reached(428, -100, b'/', 1)"),
    (
        "move_mount",
        OwnMounts,
        "reached(429, -100, b'/', -100, b'/', 0)"
    ),
    (
        "change_mount_attributes",
        OwnMounts,
        "reached(442, -100, b'/', 0, ctypes.create_string_buffer(32), 32)"
    ),
    (
        "list_mounts_of_the_host",
        Bare,
        "known = ('/', '/usr', '/proc', '/box', '/tmp', '/dev/shm')\nfound = [line.split()[4] for line in open('/proc/self/mountinfo')]\nif [path for path in found if path not in known and not path.startswith('/opt/')]: escaped(found)"
    ),
    (
        "path_of_the_cgroup",
        Bare,
        "if [line for line in open('/proc/self/cgroup') if line.strip().rsplit(':', 1)[1] != '/']: escaped('path of the cgroup')"
    ),
    // Devices and kernel interfaces.
    (
        "make_a_character_device",
        Bare,
        "attempt(lambda: os.mknod('d', 0o20666, os.makedev(1, 1)), 'a device')"
    ),
    (
        "make_a_block_device",
        Bare,
        "attempt(lambda: os.mknod('d', 0o60666, os.makedev(254, 0)), 'a disk')"
    ),
    (
        "open_host_devices",
        Bare,
        "[opens('/dev/' + name) for name in ('vda', 'sda', 'mem', 'kvm', 'fuse', 'kmsg', 'ptmx', 'vsock', 'net/tun', 'loop-control', 'console', 'tty0')]"
    ),
    (
        "kernel_settings",
        Bare,
        "[opens('/proc/sys/' + name) for name in ('kernel/core_pattern', 'kernel/hostname', 'kernel/modprobe', 'vm/overcommit_memory')]"
    ),
    (
        "write_core_pattern",
        Bare,
        "opens('/proc/sys/kernel/core_pattern', os.O_WRONLY)"
    ),
    ("sysrq", Bare, "opens('/proc/sysrq-trigger', os.O_WRONLY)"),
    (
        "kernel_memory_and_symbols",
        Bare,
        "[opens('/proc/' + name) for name in ('kcore', 'kallsyms', 'kmsg', 'kpagecount', 'iomem', 'modules', 'keys', 'timer_list')]"
    ),
    (
        "add_a_key",
        Bare,
        "reached(248, b'user', b'x', b'y', 1, -3)"
    ),
    (
        "request_a_key",
        Bare,
        "reached(249, b'user', b'x', None, 0)"
    ),
    ("keyring", Bare, "reached(250, 0, -4, 1)"),
    (
        "io_uring",
        Bare,
        "reached(425, 1, ctypes.create_string_buffer(120))"
    ),
    (
        "bpf",
        Bare,
        "reached(321, 0, ctypes.create_string_buffer(struct.pack('5I', 2, 4, 4, 1, 0) + b'\\0' * 100), 72)"
    ),
    ("userfaultfd", Bare, "reached(323, 1)"),
    ("watch_files_of_the_host", Bare, "reached(294, 0)"),
    ("watch_files_of_the_host_as_of_old", Bare, "reached(253)"),
    (
        "perf_events",
        Bare,
        "reached(298, ctypes.create_string_buffer(struct.pack('IIQ', 1, 112, 0) + b'\\0' * 96), 0, -1, -1, 0)"
    ),
    ("load_a_module", Bare, "reached(175, None, 0, b'')"),
    ("load_a_module_file", Bare, "reached(313, -1, b'', 0)"),
    ("load_a_kernel", Bare, "reached(246, 0, 0, None, 0)"),
    ("reboot", Bare, "reached(169, 0, 0, 0, 0)"),
    ("swap", Bare, "reached(167, None, 0)"),
    ("set_the_clock", Bare, "reached(227, 999, None)"),
    ("adjust_the_clock", Bare, "reached(305, 999, None)"),
    (
        "host_name",
        Bare,
        "name = os.uname().nodename.encode()\nin_child(lambda: reached(170, name, len(name)))"
    ),
    ("process_accounting", Bare, "reached(163, b'/nowhere')"),
    (
        "disk_quotas",
        Bare,
        "reached(179, 0x800001 << 8, None, 0, None)"
    ),
    (
        "port_permissions",
        Bare,
        "in_child(lambda: reached(172, 0))"
    ),
    (
        "segment_table",
        Bare,
        "reached(154, 0, ctypes.create_string_buffer(16), 16)"
    ),
    (
        "personality",
        Bare,
        "in_child(lambda: reached(135, 0x0040000))"
    ),
    ("watch_the_file_system", Bare, "reached(300, 0, 0)"),
    ("secret_memory", Bare, "reached(447, 0)"),
    (
        "install_a_seccomp_listener",
        Bare,
        "program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))\nfilter = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 1, ctypes.addressof(program)))\ndef install():\n    LIBC.prctl(38, 1, 0, 0, 0)\n    reached(317, 1, 8, filter)\nin_child(install)"
    ),
    (
        "change_memory_map",
        Bare,
        "in_child(lambda: reached(157, 35, 14, ctypes.addressof(ctypes.create_string_buffer(128)), 104, 0))"
    ),
    (
        "type_into_a_terminal",
        Bare,
        "reached(16, os.open('/dev/null', os.O_RDONLY), 0x5412, b'x')"
    ),
    (
        "type_into_a_terminal_with_high_bits",
        Bare,
        "reached(16, os.open('/dev/null', os.O_RDONLY), 0x5412 | 1 << 32, b'x')"
    ),
    (
        "calls_of_32_bits",
        Bare,
        "import mmap\ncode = bytes.fromhex('53b814000000cd805bc3')\nmemory = mmap.mmap(-1, 4096, prot=7)\nmemory.write(code)\naddress = ctypes.addressof(ctypes.c_char.from_buffer(memory))\ndef run():\n    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0: escaped('a call of 32 bits')\nin_child(run)"
    ),
    ("calls_of_x32", Bare, "reached(0x40000000 + 39)"),
    // The network and its neighbours.
    (
        "connect_to_the_workers_machine",
        Bare,
        "attempt(lambda: socket.create_connection(('127.0.0.1', PORT), 3), 'a port of the host')"
    ),
    (
        "connect_over_ipv6",
        Bare,
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\nattempt(lambda: s.connect(('2001:db8::1', 9)), 'a route')"
    ),
    (
        "route_to_anywhere",
        Bare,
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nattempt(lambda: s.connect(('192.0.2.1', 9)), 'a route')"
    ),
    (
        "see_interfaces",
        Bare,
        "import fcntl\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor name in (b'eth0', b'ens3', b'ens5', b'enp1s0', b'docker0', b'ifb0', b'wlan0'):\n    attempt(lambda: fcntl.ioctl(s, 0x8913, struct.pack('16s24x', name)), name)"
    ),
    (
        "hidden_socket_of_the_host",
        Bare,
        "s = socket.socket(socket.AF_UNIX)\nattempt(lambda: s.connect('\\0' + ABSTRACT), 'an abstract socket')"
    ),
    (
        "named_socket_of_the_host",
        Bare,
        "s = socket.socket(socket.AF_UNIX)\nattempt(lambda: s.connect(SOCKET), 'a named socket')"
    ),
    (
        "datagram_to_a_named_socket_of_the_host",
        Bare,
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nattempt(lambda: a.sendto(b'x', DATAGRAMS), 'a datagram to the host')"
    ),
    ("vsock", Bare, "makes_socket(40)"),
    ("netlink", Bare, "makes_socket(16, socket.SOCK_RAW)"),
    ("packet_socket", Bare, "makes_socket(17, socket.SOCK_RAW)"),
    (
        "raw_socket",
        Bare,
        "makes_socket(socket.AF_INET, socket.SOCK_RAW, 1)"
    ),
    (
        "raw_tcp_socket",
        Bare,
        "makes_socket(socket.AF_INET, socket.SOCK_RAW, 6)"
    ),
    (
        "kernel_crypto_socket",
        Bare,
        "makes_socket(38, socket.SOCK_SEQPACKET)"
    ),
    (
        "bluetooth_socket",
        Bare,
        "makes_socket(31, socket.SOCK_RAW, 1)"
    ),
    (
        "key_management_socket",
        Bare,
        "makes_socket(15, socket.SOCK_RAW, 2)"
    ),
    (
        "tipc_socket",
        Bare,
        "makes_socket(30, socket.SOCK_SEQPACKET)"
    ),
    (
        "sctp",
        Bare,
        "makes_socket(socket.AF_INET, socket.SOCK_STREAM, 132)"
    ),
    (
        "mptcp",
        Bare,
        "makes_socket(socket.AF_INET, socket.SOCK_STREAM, 262)"
    ),
    (
        "low_ports",
        Bare,
        "s = socket.socket()\nattempt(lambda: s.bind(('127.0.0.1', 1)), 'port 1')"
    ),
    (
        "credentials_of_another",
        Bare,
        "a, b = socket.socketpair()\nattempt(lambda: a.sendmsg([b'x'], [(1, 2, struct.pack('3i', 2, 0, 0))]), 'credentials of another')"
    ),
    // What it shares with the machine.
    (
        "watch_a_folder_of_the_toolchains",
        Bare,
        "reached(72, os.open('/usr/bin', os.O_RDONLY), 1026, 0x80000001)"
    ),
    (
        "flush_the_disk_of_the_host",
        Bare,
        "for number in (74, 75, 277, 221, 306):\n    result, error = call(number, -1, 0, 0, 0)\n    if error == errno.EBADF: escaped(f'system call {number} asks for a file')\nimport mmap\nfile = os.open('/usr/bin/env', os.O_RDONLY)\nmapped = mmap.mmap(file, 4096, mmap.MAP_SHARED, mmap.PROT_READ)\nresult, error = call(26, 1, 4096, 4)\nif error == errno.EINVAL: escaped('msync')"
    ),
    (
        "as_urgent_as_the_server",
        Bare,
        "try: os.setpriority(os.PRIO_PROCESS, 0, 0)\nexcept OSError: pass\nif os.getpriority(os.PRIO_PROCESS, 0) < 5: escaped(f'priority {os.getpriority(os.PRIO_PROCESS, 0)}')"
    ),
    (
        "outlives_the_server_without_memory",
        Bare,
        "own = '/proc/self/oom_score_adj'\ntry: open(own, 'w').write('0')\nexcept OSError: pass\nif int(open(own).read()) < 1000: escaped('it is not killed first')"
    ),
];
