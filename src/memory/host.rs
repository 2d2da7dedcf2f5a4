//! What a host has against a plan.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::topology;
use crate::model::format::size as size_text;
use crate::model::plan::Plan;
use crate::model::region::{MAP_NORESERVE, MAP_POPULATE, SharedRegion};
use crate::model::source::SourceType;
use crate::sys::limits;

/// Addresses of a process: 47 bits on x86_64, and as many are used on aarch64 unless more are asked for.
const HOST_ADDRESSES: u64 = 1 << 47;

/// Where a host tells about itself.
#[derive(Clone, Debug)]
pub struct Files {
    /// Usually `/sys`.
    pub sysfs: PathBuf,
    /// Usually `/proc`.
    pub procfs: PathBuf,
}

impl Files {
    fn number(&self, path: PathBuf) -> Option<u64> {
        fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
    }

    fn pool(&self, page_size: u64) -> PathBuf {
        self.sysfs.join(format!("kernel/mm/hugepages/hugepages-{}kB", page_size / 1024))
    }

    /// Bytes behind a line of meminfo.
    fn meminfo(&self, label: &str) -> Option<u64> {
        let text = fs::read_to_string(self.procfs.join("meminfo")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(label))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }
}

/// Everything that stands in the way of building the plan on this host now.
#[must_use]
pub fn problems(plan: &Plan, files: &Files) -> Vec<String> {
    let mut problems = numa_problems(plan, files);
    problems.extend(pool_problems(plan, files));
    problems.extend(size_problems(plan, files));
    problems.extend(limit_problems(plan, files));
    problems
}

fn numa_problems(plan: &Plan, files: &Files) -> Vec<String> {
    let host = topology::of_sysfs(&files.sysfs);
    let refusal = |region: &SharedRegion| Some(format!("{region}: {}", host.refusal(&region.numa_policy()?.nodes)?));
    plan.regions.iter().filter_map(refusal).collect()
}

fn pool_problems(plan: &Plan, files: &Files) -> Vec<String> {
    let mut needed = BTreeMap::<u64, u64>::new();
    for region in &plan.regions {
        let (Some(page_size), 0) = (region.options.page_size, region.map_flags() & MAP_NORESERVE) else { continue };
        let pages = needed.entry(page_size).or_default();
        *pages = pages.saturating_add(region.size().div_ceil(page_size));
    }
    let short = |(page_size, pages): (u64, u64)| {
        let (pool, size) = (files.pool(page_size), size_text(page_size));
        if !pool.exists() {
            return Some(format!("the host has no huge pages of {size}"));
        }
        let count = |name: &str| files.number(pool.join(name)).unwrap_or_default();
        let free = count("free_hugepages").saturating_sub(count("resv_hugepages"));
        let free = free.saturating_add(count("nr_overcommit_hugepages").saturating_sub(count("surplus_hugepages")));
        let missing = pages.saturating_sub(free);
        (missing > 0).then(|| {
            let path = pool.join("nr_hugepages");
            format!("{pages} huge pages of {size} are needed, {free} are free: add {missing} to {}", path.display())
        })
    };
    needed.into_iter().filter_map(short).collect()
}

fn size_problems(plan: &Plan, files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    let total = plan.regions.iter().fold(0u64, |sum, region| sum.saturating_add(region.size()));
    if total >= HOST_ADDRESSES {
        problems.push(format!("{} do not fit into the addresses of a process", size_text(total)));
    }
    let is_small = |region: &&SharedRegion| !region.effective_source().is_some_and(SourceType::is_huge);
    let now = plan.regions.iter().filter(is_small).filter(|region| is_there_at_once(region));
    let now = now.fold(0u64, |sum, region| sum.saturating_add(region.size()));
    let available = files.meminfo("MemAvailable:").unwrap_or(u64::MAX);
    let cgroup = limits::cgroup_memory_left().unwrap_or(u64::MAX);
    for (left, place) in [(available, "on the host"), (cgroup, "in this process's cgroup (memory.max)")] {
        if now > left {
            let (now, left) = (size_text(now), size_text(left));
            problems.push(format!("{now} must be populated at build time, but only {left} are available {place}"));
        }
    }
    problems
}

fn is_there_at_once(region: &SharedRegion) -> bool {
    region.perm_flags & MAP_POPULATE != 0 || region.options.mlock == Some(true)
}

fn limit_problems(plan: &Plan, files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    let files_needed = plan.regions.iter().filter(|region| region.has_file()).count();
    let open = fs::read_dir(files.procfs.join("self/fd")).map_or(0, Iterator::count);
    let descriptors = u64::try_from(files_needed.saturating_add(open)).unwrap_or(u64::MAX);
    if descriptors > limits::open_files() {
        problems.push(format!("{files_needed} descriptors are needed: raise RLIMIT_NOFILE ({})", limits::open_files()));
    }
    let maps =
        plan.regions.iter().map(|region| if region.options.guard_pages == Some(true) { 3u64 } else { 1 }).sum::<u64>();
    let most = files.number(files.procfs.join("sys/vm/max_map_count")).unwrap_or(u64::MAX);
    if maps > most {
        problems.push(format!("{maps} mappings are needed: raise vm.max_map_count ({most})"));
    }
    let locked = plan.regions.iter().filter(|region| region.options.mlock == Some(true));
    let locked = locked.fold(0u64, |sum, region| sum.saturating_add(region.size()));
    if locked > limits::locked_memory() {
        let (locked, limit) = (size_text(locked), size_text(limits::locked_memory()));
        problems.push(format!("{locked} are to be locked: raise RLIMIT_MEMLOCK ({limit})"));
    }
    problems
}
