//! How often the kernel has killed processes for lack of memory.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are mounted, by what every distribution does.
const MOUNT: &str = "/sys/fs/cgroup";

/// The counter of this process's control group, in which its children are too.
///
/// Without one (no memory controller, a root group, an old kernel) it stays at 0. A child that is
/// killed in a group below, or another process of the group, makes it wrong: it is a good guess.
#[derive(Debug)]
pub(crate) struct OomKills {
    counter: Option<PathBuf>,
    /// How many kills are accounted for.
    claimed: u64,
}

impl OomKills {
    /// Counts from now on.
    pub(crate) fn new() -> OomKills {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let counter = candidates(&groups).into_iter().find(|path| read(path).is_some());
        let claimed = counter.as_deref().and_then(read).unwrap_or(0);
        OomKills { counter, claimed }
    }

    /// Whether there was a kill that is not accounted for; it is then.
    pub(crate) fn claim(&mut self) -> bool {
        let kills = self.counter.as_deref().and_then(read).unwrap_or(0);
        let more = kills > self.claimed;
        self.claimed += u64::from(more);
        more
    }
}

fn read(path: &Path) -> Option<u64> {
    parse(&fs::read_to_string(path).ok()?)
}

/// The counter in `memory.events` or `memory.oom_control`.
fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The files that may hold it, by what `/proc/self/cgroup` says. In a container the group's path
/// may be the host's, and the group itself is mounted.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (mounts, file): (&[&str], _) = if controllers.is_empty() {
            (&["", "/unified"], "memory.events")
        } else if controllers.split(',').any(|name| name == "memory") {
            (&["/memory"], "memory.oom_control")
        } else {
            continue;
        };
        for group in [group, ""] {
            let group = group.trim_end_matches('/');
            let path = |mount| PathBuf::from(format!("{MOUNT}{mount}{group}/{file}"));
            paths.extend(mounts.iter().map(path));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_and_read() {
        let paths = candidates("12:pids:/a\n4:cpu,memory:/b/c\n0::/d\nnonsense\n");
        let paths: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "/sys/fs/cgroup/memory/b/c/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control",
                "/sys/fs/cgroup/d/memory.events",
                "/sys/fs/cgroup/unified/d/memory.events",
                "/sys/fs/cgroup/memory.events",
                "/sys/fs/cgroup/unified/memory.events",
            ]
        );
        assert_eq!(parse("low 0\noom 2\noom_kill 17\noom_group_kill 0\n"), Some(17));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn every_kill_is_claimed_once_and_none_without_a_counter() {
        let path = std::env::temp_dir().join(format!("oom-kills-{}", std::process::id()));
        fs::write(&path, "oom_kill 5\n").unwrap();
        let mut kills = OomKills { counter: Some(path.clone()), claimed: 3 };
        assert_eq!([kills.claim(), kills.claim(), kills.claim()], [true, true, false]);
        fs::remove_file(&path).unwrap();
        assert!(!kills.claim());
        assert!(!OomKills { counter: None, claimed: 0 }.claim());
    }
}
