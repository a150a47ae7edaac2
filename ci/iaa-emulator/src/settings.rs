//! The settings: what devices there are and what they do wrong, from a file and the environment.
//!
//! The order is: the file named by `IAA_EMULATOR_CONFIG`, then `IAA_EMULATOR_SETTINGS`, then `IAA_EMULATOR_INJECT` and
//! `IAA_EMULATOR_REPORT`; later ones win. A setting that cannot be understood is reported, and the device then stays
//! absent: a test must not pass because its set-up was misread.

use crate::inject::Injection;

/// How descriptors reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// By write(2): the work queue's node cannot be mapped.
    Write,
    /// By ENQCMD to a mapped page, which traps and is carried out by a signal handler.
    Enqcmd,
}

/// Where the report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Standard error.
    Stderr,
    /// Nowhere.
    Nowhere,
    /// Added to this file.
    File(String),
}

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How descriptors come in.
    pub transport: Transport,
    /// Number of devices.
    pub devices: usize,
    /// Engines of each device.
    pub engines: usize,
    /// Work queues of each device.
    pub queues: usize,
    /// Entries of each work queue.
    pub queue_size: usize,
    /// NUMA nodes, dealt out to the devices in turn.
    pub numa_nodes: Vec<i32>,
    /// The queues' block on fault.
    pub block_on_fault: bool,
    /// The queues' and the devices' largest transfer.
    pub max_transfer_size: u64,
    /// The devices' version.
    pub version: u32,
    /// The devices' capabilities.
    pub gen_cap: u64,
    /// The devices' IAA capabilities.
    pub iaa_cap: u64,
    /// Whether the queues tell which operations they take.
    pub op_config: bool,
    /// Whether the queues are shared.
    pub shared: bool,
    /// Whether the devices are enabled.
    pub device_enabled: bool,
    /// Whether the queues are enabled.
    pub queue_enabled: bool,
    /// Whether the queues' nodes can be opened.
    pub accessible: bool,
    /// What a page request costs, in microseconds.
    pub fault_us: u64,
    /// The seed of the draws.
    pub seed: u64,
    /// What goes wrong.
    pub injection: Injection,
    /// Where the report goes.
    pub report: Report,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            transport: Transport::Write,
            devices: 1,
            engines: 2,
            queues: 1,
            queue_size: 128,
            numa_nodes: vec![-1],
            block_on_fault: true,
            max_transfer_size: 2 << 20,
            version: 0x100,
            gen_cap: 0x0007_1f10_901f_0105,
            iaa_cap: 0,
            op_config: true,
            shared: true,
            device_enabled: true,
            queue_enabled: true,
            accessible: true,
            fault_us: 0,
            seed: 1,
            injection: Injection::default(),
            report: Report::Stderr,
        }
    }
}

/// Settings that may change while the devices run.
const CHANGEABLE: [&str; 4] = ["inject", "seed", "fault_us", "report"];

impl Settings {
    /// Reads the environment.
    pub fn from_environment() -> Result<Self, String> {
        let variable = |name: &str| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(_) => Err(format!("{name} is not UTF-8")),
        };
        let mut settings = Settings::default();
        if let Some(path) = variable("IAA_EMULATOR_CONFIG")? {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {path}: {error}"))?;
            settings.apply(&text, false).map_err(|error| format!("{path}: {error}"))?;
        }
        if let Some(text) = variable("IAA_EMULATOR_SETTINGS")? {
            settings
                .apply(&text, false)
                .map_err(|error| format!("IAA_EMULATOR_SETTINGS: {error}"))?;
        }
        for (name, key) in [("IAA_EMULATOR_INJECT", "inject"), ("IAA_EMULATOR_REPORT", "report")] {
            if let Some(value) = variable(name)? {
                settings.set(key, &value).map_err(|error| format!("{name}: {error}"))?;
            }
        }
        Ok(settings)
    }

    /// Applies `key=value` lines; `;` ends a line too, and `#` starts a comment. With `running`, only what may change
    /// while devices run. Nothing is applied when a line is wrong.
    pub fn apply(&mut self, text: &str, running: bool) -> Result<(), String> {
        let mut changed = self.clone();
        for line in text.split(['\n', ';']) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (key, value) =
                line.split_once('=').ok_or_else(|| format!("{line:?} is not key=value"))?;
            let key = key.trim();
            if running && !CHANGEABLE.contains(&key) {
                return Err(format!("{key} cannot change once the devices run"));
            }
            changed.set(key, value.trim())?;
        }
        *self = changed;
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "transport" => {
                self.transport = choice(
                    key,
                    value,
                    &[("write", Transport::Write), ("enqcmd", Transport::Enqcmd)],
                )?;
            }
            "devices" => self.devices = within(key, value, 0, 64)? as usize,
            "engines" => self.engines = within(key, value, 1, 64)? as usize,
            "queues" => self.queues = within(key, value, 0, 8)? as usize,
            "queue_size" => self.queue_size = within(key, value, 1, 256)? as usize,
            "numa_nodes" => {
                let nodes: Result<Vec<i32>, _> =
                    value.split(',').map(|node| node.trim().parse()).collect();
                self.numa_nodes =
                    nodes.map_err(|_| format!("numa_nodes: {value:?} is no list of numbers"))?;
            }
            "block_on_fault" => self.block_on_fault = yes(key, value)?,
            "max_transfer_size" => self.max_transfer_size = within(key, value, 0, 1 << 31)?,
            "version" => self.version = within(key, value, 0, u64::from(u32::MAX))? as u32,
            "gen_cap" => self.gen_cap = within(key, value, 0, u64::MAX)?,
            "iaa_cap" => self.iaa_cap = within(key, value, 0, u64::MAX)?,
            "op_config" => self.op_config = yes(key, value)?,
            "mode" => self.shared = choice(key, value, &[("shared", true), ("dedicated", false)])?,
            "device_state" => self.device_enabled = choice(key, value, &STATES)?,
            "queue_state" => self.queue_enabled = choice(key, value, &STATES)?,
            "accessible" => self.accessible = yes(key, value)?,
            "fault_us" => self.fault_us = within(key, value, 0, 10_000_000)?,
            "seed" => self.seed = within(key, value, 0, u64::MAX)?,
            "inject" => self.injection = Injection::parse(value)?,
            "report" => {
                self.report = match value {
                    "-" | "" => Report::Stderr,
                    "none" => Report::Nowhere,
                    path => Report::File(path.into()),
                }
            }
            _ => return Err(format!("unknown setting {key:?}")),
        }
        Ok(())
    }
}

const STATES: [(&str, bool); 2] = [("enabled", true), ("disabled", false)];

fn within(key: &str, value: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => value.parse(),
    };
    let number = number.map_err(|_| format!("{key}: {value:?} is not a number"))?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("{key}: {number} is not in {least}..={most}"))
    }
}

fn yes(key: &str, value: &str) -> Result<bool, String> {
    choice(key, value, &[("1", true), ("0", false), ("yes", true), ("no", false)])
}

fn choice<T: Copy>(key: &str, value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("{key}: {value:?} is none of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_comments_are_read() {
        let mut settings = Settings::default();
        let text = "devices = 2 # two\nnuma_nodes=0, 1\n\nqueue_size=0x10; inject=busy=0.5,never=1%\ntransport=enqcmd";
        settings.apply(text, false).unwrap();
        assert_eq!(
            (settings.devices, settings.queue_size, settings.transport),
            (2, 16, Transport::Enqcmd)
        );
        assert_eq!(settings.numa_nodes, [0, 1]);
        assert_eq!(settings.injection, Injection::parse("busy=0.5,never=0.01").unwrap());
    }

    #[test]
    fn a_wrong_line_changes_nothing() {
        let mut settings = Settings::default();
        for text in
            ["devices=2\nengines=0", "devices=2\nwhat=1", "devices=2\nmode", "devices=2\nmode=both"]
        {
            assert!(settings.apply(text, false).is_err(), "{text}");
            assert_eq!(settings, Settings::default());
        }
    }

    #[test]
    fn running_devices_keep_their_shape() {
        let mut settings = Settings::default();
        assert!(settings.apply("devices=2", true).is_err());
        settings.apply("inject=flip=1; fault_us=10", true).unwrap();
        assert_eq!(settings.fault_us, 10);
    }
}
