//! Facts of a host: page sizes, huge page pools, memory, limits and NUMA nodes, read from its `/proc` and `/sys`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::once::Once;

/// Where a host tells about itself; a copy of another host's files does as well.
#[derive(Clone, Debug)]
pub struct Host {
    /// Usually `/sys`.
    pub sysfs: PathBuf,
    /// Usually `/proc`.
    pub procfs: PathBuf,
}

impl Default for Host {
    /// The host that this process runs on.
    fn default() -> Self {
        Self { sysfs: "/sys".into(), procfs: "/proc".into() }
    }
}

impl Host {
    /// Whether it is the host that this process runs on: files of another can't be looked at.
    #[must_use]
    pub fn is_this(&self) -> bool {
        let this = Self::default();
        (&self.sysfs, &self.procfs) == (&this.sysfs, &this.procfs)
    }
}

/// The page size of this host in bytes.
#[must_use]
pub fn page_size() -> u64 {
    static SIZE: Once<u64> = Once::new();
    *SIZE.get_or_init(|| {
        // SAFETY: takes an integer, gives an integer.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(size).unwrap_or(4096)
    })
}

impl Host {
    /// The end of the physical addresses that the processors have; `None` where `cpuinfo` does not tell.
    #[must_use]
    pub fn physical_end(&self) -> Option<u64> {
        let cpuinfo = self.cpuinfo()?;
        let sizes = cpuinfo.lines().find_map(|line| line.strip_prefix("address sizes")?.split_once(": "))?.1;
        1u64.checked_shl(sizes.split_once(" bits physical")?.0.parse().ok()?)
    }

    /// The end of the addresses that a guest of KVM has: the processors', and on x86_64 those of tables with four levels without `la57`.
    #[must_use]
    pub fn guest_physical_end(&self) -> Option<u64> {
        const FOUR_LEVELS: u64 = 1 << 48;
        let cpuinfo = self.cpuinfo().unwrap_or_default();
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has_five = flags.split_whitespace().any(|flag| flag == "la57");
        self.physical_end().map(|end| if has_five { end } else { end.min(FOUR_LEVELS) })
    }

    /// `x86_64` or `aarch64`, by the name that the kernel gives, or before Linux 6.1 by what `cpuinfo` tells.
    #[must_use]
    pub fn architecture(&self) -> Option<String> {
        if let Ok(name) = fs::read_to_string(self.procfs.join("sys/kernel/arch")) {
            return Some(name.trim().to_owned());
        }
        let cpuinfo = self.cpuinfo()?;
        let tells = |label: &str| cpuinfo.lines().any(|line| line.starts_with(label));
        let known = [("vendor_id", "x86_64"), ("CPU implementer", "aarch64")];
        known.into_iter().find(|(label, _)| tells(label)).map(|(_, name)| name.to_owned())
    }

    /// The default huge page size in bytes; `None` where the kernel has no huge pages.
    #[must_use]
    pub fn default_huge_page_size(&self) -> Option<u64> {
        self.meminfo("Hugepagesize:")
    }

    /// The huge page sizes in bytes, ascending.
    #[must_use]
    pub fn huge_page_sizes(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.sysfs.join(POOLS)).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut sizes: Vec<u64> = names.filter_map(|name| kilobytes(name.strip_prefix("hugepages-")?)).collect();
        // A folder is listed in any order.
        sizes.sort_unstable();
        sizes
    }

    /// The file whose number is how many huge pages of a size the pool has.
    #[must_use]
    pub fn huge_page_pool(&self, page_size: u64) -> PathBuf {
        self.sysfs.join(POOLS).join(format!("hugepages-{}kB/nr_hugepages", page_size / 1024))
    }

    /// The huge pages of a size that a new mapping can still get; `None` where the kernel has no pool of that size.
    #[must_use]
    pub fn available_huge_pages(&self, page_size: u64) -> Option<u64> {
        let pool = self.huge_page_pool(page_size);
        let count = |name: &str| number(&pool.with_file_name(name)).unwrap_or_default();
        if !pool.parent().is_some_and(Path::exists) {
            return None;
        }
        // Free pages may be promised to mappings that have not touched them, and the kernel may add some on demand. The four
        // numbers are not read at one moment, so a difference may come out below nothing.
        let unpromised = count("free_hugepages").saturating_sub(count("resv_hugepages"));
        let on_demand = count("nr_overcommit_hugepages").saturating_sub(count("surplus_hugepages"));
        unpromised.checked_add(on_demand)
    }

    /// Bytes of memory, as the kernel counts them.
    #[must_use]
    pub fn total_memory(&self) -> Option<u64> {
        self.meminfo("MemTotal:")
    }

    /// Bytes of memory that can be had without swapping.
    #[must_use]
    pub fn available_memory(&self) -> Option<u64> {
        self.meminfo("MemAvailable:")
    }

    /// Bytes of swap space.
    #[must_use]
    pub fn total_swap(&self) -> u64 {
        self.meminfo("SwapTotal:").unwrap_or_default()
    }

    /// Bytes that the kernel still promises under strict overcommit.
    #[must_use]
    pub fn commit_left(&self) -> Option<u64> {
        Some(self.meminfo("CommitLimit:")?.saturating_sub(self.meminfo("Committed_AS:")?))
    }

    /// Whether the kernel promises no more memory than it has (`vm.overcommit_memory=2`), so that a touch may fail; `None` where that
    /// can't be read.
    #[must_use]
    pub fn has_strict_overcommit(&self) -> Option<bool> {
        let mode: u64 = number(&self.procfs.join("sys/vm/overcommit_memory"))?;
        Some(mode > 1)
    }

    /// How many mappings a process may have.
    #[must_use]
    pub fn max_mappings(&self) -> Option<u64> {
        number(&self.procfs.join("sys/vm/max_map_count"))
    }

    /// How many descriptors this process has open.
    #[must_use]
    pub fn open_descriptors(&self) -> usize {
        fs::read_dir(self.procfs.join("self/fd")).map_or(0, Iterator::count)
    }

    /// How many descriptors this process may have open (`RLIMIT_NOFILE`); `None` without a limit.
    #[must_use]
    pub fn max_descriptors(&self) -> Option<u64> {
        self.limit("Max open files")
    }

    /// How many bytes this process may lock (`RLIMIT_MEMLOCK`); `None` without a limit, as with `CAP_IPC_LOCK`.
    #[must_use]
    pub fn max_locked_memory(&self) -> Option<u64> {
        const CAP_IPC_LOCK: u32 = 14;
        let capabilities = line(&self.procfs.join("self/status"), "CapEff:");
        let capabilities = capabilities.and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or_default();
        if capabilities & (1 << CAP_IPC_LOCK) == 0 { self.limit("Max locked memory") } else { None }
    }

    /// How many bytes this process may map (`RLIMIT_AS`); `None` without a limit.
    #[must_use]
    pub fn max_address_space(&self) -> Option<u64> {
        self.limit("Max address space")
    }

    /// How many bytes this process has mapped.
    #[must_use]
    pub fn address_space_used(&self) -> u64 {
        line(&self.procfs.join("self/status"), "VmSize:").and_then(|text| kilobytes(&text)).unwrap_or_default()
    }

    /// How many mappings this process has.
    #[must_use]
    pub fn mappings(&self) -> usize {
        fs::read_to_string(self.procfs.join("self/maps")).map_or(0, |text| text.lines().count())
    }

    /// How many memory slots a machine of KVM has; `None` where there is no KVM, and for the copy of another host.
    #[must_use]
    pub fn max_memory_slots(&self) -> Option<u64> {
        (self.procfs == Self::default().procfs).then(super::kvm::max_memory_slots)?
    }

    /// Bytes of a node's memory that can be had without swapping: free, or of the page cache.
    #[must_use]
    pub fn available_node_memory(&self, node: u32) -> Option<u64> {
        let text = self.node_list(&format!("node{node}/meminfo"))?;
        let bytes = |label: &str| text.lines().find_map(|line| kilobytes(line.split_once(label)?.1));
        let cache = ["Active(file):", "Inactive(file):", "SReclaimable:"].into_iter().filter_map(bytes);
        Some(cache.fold(bytes("MemFree:")?, u64::saturating_add))
    }

    /// The file whose number is how many huge pages of a size a node has.
    #[must_use]
    pub fn node_huge_page_pool(&self, node: u32, page_size: u64) -> PathBuf {
        let name = format!("node{node}/hugepages/hugepages-{}kB/nr_hugepages", page_size / 1024);
        self.sysfs.join(NODES).join(name)
    }

    /// The huge pages of a size that are free on a node; `None` where it does not tell.
    #[must_use]
    pub fn free_huge_pages_on(&self, node: u32, page_size: u64) -> Option<u64> {
        number(&self.node_huge_page_pool(node, page_size).with_file_name("free_hugepages"))
    }

    /// A list of NUMA nodes, such as `online` or `has_memory`, as the kernel writes it.
    #[must_use]
    pub fn node_list(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.sysfs.join(NODES).join(name)).ok()
    }

    /// The CPUs of a NUMA node, as the kernel writes them.
    #[must_use]
    pub fn cpu_list(&self, node: u32) -> Option<String> {
        self.node_list(&format!("node{node}/cpulist"))
    }

    /// The beginning of `cpuinfo`, with the first processor: the kernel takes long to tell of hundreds.
    fn cpuinfo(&self) -> Option<String> {
        let mut begin = Vec::new();
        fs::File::open(self.procfs.join("cpuinfo")).ok()?.take(FIRST_PROCESSOR).read_to_end(&mut begin).ok()?;
        Some(String::from_utf8_lossy(&begin).into_owned())
    }

    fn meminfo(&self, label: &str) -> Option<u64> {
        kilobytes(&line(&self.procfs.join("meminfo"), label)?)
    }

    /// The soft limit in a line of `/proc/self/limits`.
    fn limit(&self, label: &str) -> Option<u64> {
        // A limit that is "unlimited" is not a number, and `None`.
        line(&self.procfs.join("self/limits"), label)?.split_whitespace().next()?.parse().ok()
    }
}

/// Bytes that hold what `cpuinfo` tells of one processor.
const FIRST_PROCESSOR: u64 = 8192;
const POOLS: &str = "kernel/mm/hugepages";
const NODES: &str = "devices/system/node";

/// The first word of a file, where it is a number.
pub(super) fn number(path: &Path) -> Option<u64> {
    // One call: each change of a space asks for some.
    let mut text = [0; 64];
    let count = File::open(path).and_then(|mut file| file.read(&mut text)).ok()?;
    std::str::from_utf8(text.get(..count)?).ok()?.split_whitespace().next()?.parse().ok()
}

/// The rest of the first line of a file that begins with a label.
pub(super) fn line(path: &Path, label: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(label)).map(|rest| rest.trim().to_owned())
}

/// The bytes of a text such as `2048kB` or `16 kB`.
pub(super) fn kilobytes(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose files are gone when it is dropped.
    struct TestHost(Host);

    impl std::ops::Deref for TestHost {
        type Target = Host;

        fn deref(&self) -> &Host {
            &self.0
        }
    }

    impl Drop for TestHost {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.sysfs.parent().unwrap());
        }
    }

    /// A host that tells what the files say.
    fn host(name: &str, files: &[(&str, &str)]) -> TestHost {
        let root = std::env::temp_dir().join(format!("host-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        TestHost(Host { sysfs: root.join("sys"), procfs: root.join("proc") })
    }

    #[test]
    fn a_pool_has_what_is_free_and_not_promised_and_what_may_be_added() {
        let pool = "sys/kernel/mm/hugepages/hugepages-2048kB";
        let file = |name| format!("{pool}/{name}");
        let (free, promised, more, added) = (
            file("free_hugepages"),
            file("resv_hugepages"),
            file("nr_overcommit_hugepages"),
            file("surplus_hugepages"),
        );
        let host = host("pool", &[(&free, "7\n"), (&promised, "2\n"), (&more, "4\n"), (&added, "1\n")]);
        assert_eq!(host.available_huge_pages(2 << 20), Some(8));
        assert_eq!(host.available_huge_pages(1 << 30), None);
        assert_eq!(host.huge_page_sizes(), [2 << 20]);
        fs::write(host.sysfs.join("../").join(promised), "9\n").unwrap();
        assert_eq!(host.available_huge_pages(2 << 20), Some(3));
    }

    #[test]
    fn meminfo_and_limits_are_in_bytes() {
        let limits = "Limit            Soft Limit Hard Limit Units\n\
                      Max locked memory 65536 unlimited bytes\nMax open files unlimited unlimited files\n";
        let files = [
            ("proc/meminfo", "MemTotal:       16 kB\nMemAvailable:    8 kB\nHugepagesize:    2048 kB\n"),
            ("proc/self/limits", limits),
            ("proc/self/status", "Name:\tpython\nCapEff:\t0000000000000000\n"),
        ];
        let host = host("limits", &files);
        assert_eq!((host.total_memory(), host.available_memory()), (Some(16 << 10), Some(8 << 10)));
        assert_eq!(host.default_huge_page_size(), Some(2 << 20));
        assert_eq!((host.max_locked_memory(), host.max_descriptors()), (Some(64 << 10), None));
        fs::write(host.procfs.join("self/status"), "CapEff:\t0000000000004000\n").unwrap();
        assert_eq!(host.max_locked_memory(), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let files = [
            ("proc/self/cgroup", "1:cpu:/\n0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "4096\n"),
            ("sys/fs/cgroup/a/memory.current", "1024\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "512\n"),
        ];
        assert_eq!(host("cgroup", &files).cgroup_memory_left(), Some(3072));
    }

    #[test]
    fn a_host_that_tells_nothing_has_no_limits() {
        let silent = host("silent", &[]);
        assert_eq!((silent.cgroup_memory_left(), silent.max_mappings(), silent.total_memory()), (None, None, None));
    }

    #[test]
    fn memory_is_promised_only_by_a_host_that_says_so() {
        let strict = |value| host("strict", &[("proc/sys/vm/overcommit_memory", value)]).has_strict_overcommit();
        assert_eq!(["0\n", "1\n", "2\n", "x\n"].map(strict), [Some(false), Some(false), Some(true), None]);
        assert_eq!(host("silent", &[]).has_strict_overcommit(), None);
    }
}
