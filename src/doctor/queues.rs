//! Devices, their work queues, and the nodes that lead to them.
//!
//! libqpl takes every queue that is enabled, shared and can be opened, and
//! drops the others without saying why; nor does it look at the rest of a
//! queue's settings. Three of those matter all the same: a queue of type
//! `user` is the only kind that has a node, a transfer limit below the 5376
//! bytes of the decompressor's state refuses every page, and without block on
//! fault each missing page comes back as an error.

use super::pci::{BUS, Devices, Iax};
use super::probes::{NodeProbe, Probes};
use super::root::{Lack, Root};
use super::{Chain, Check};

/// Size of the decompressor's state, which counts as a transfer.
const LEAST_TRANSFER: u64 = 5376;
/// What to ask for: the next power of two.
const GOOD_TRANSFER: u64 = 8192;
/// Where nodes are: `/dev/iax/wq1.0`.
pub(super) const NODES: &str = "dev/iax";

/// One work queue as idxd shows it.
#[derive(Debug)]
struct Queue {
    name: String,
    state: Result<String, Lack>,
    mode: Result<String, Lack>,
    kind: Result<String, Lack>,
    driver: Result<String, Lack>,
    size: Result<u64, Lack>,
    threshold: Result<u64, Lack>,
    priority: Result<u64, Lack>,
    transfer: Result<u64, Lack>,
    block_on_fault: Result<u64, Lack>,
}

/// The nodes that can be opened, as far as that was tried.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Nodes whose portal can be mapped.
    pub(super) mapped: Vec<String>,
    /// Nodes that take descriptors by write(2) only.
    pub(super) write_only: Vec<String>,
}

impl Queue {
    fn read(root: &Root, name: &str) -> Queue {
        let text = |attribute: &str| root.read(&format!("{BUS}/{name}/{attribute}"));
        let number = |attribute: &str| {
            let text = text(attribute)?;
            text.parse().map_err(|_| Lack::Refused(format!("{attribute} {text:?} is no number")))
        };
        Queue {
            name: name.into(),
            state: text("state"),
            mode: text("mode"),
            kind: text("type"),
            driver: text("driver_name"),
            size: number("size"),
            threshold: number("threshold"),
            priority: number("priority"),
            transfer: number("max_transfer_size"),
            block_on_fault: number("block_on_fault"),
        }
    }

    fn enabled(&self) -> bool {
        self.state.as_deref() == Ok("enabled")
    }

    /// Whether anybody has set it up for anything.
    fn configured(&self) -> bool {
        let sized = self.size.as_ref().is_ok_and(|size| *size > 0);
        let typed = self.kind.as_deref().is_ok_and(|kind| kind != "none");
        self.enabled() || sized || typed || self.size.is_err()
    }

    /// Whether the kernel itself uses it (iaa_crypto, dmaengine).
    fn kernels(&self) -> bool {
        self.kind.as_deref() == Ok("kernel")
    }

    /// What keeps libqpl from using it, worst first.
    fn defects(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Ok(mode) = &self.mode
            && mode != "shared"
        {
            found.push(format!("mode is {mode}, must be shared"));
        }
        if let Ok(kind) = &self.kind
            && kind != "user"
        {
            found.push(format!("type is {kind}, must be user"));
        }
        // The attribute is younger than idxd: no file, no need.
        if let Ok(driver) = &self.driver
            && driver != "user"
        {
            found.push(format!("driver_name is {driver:?}, must be user"));
        }
        if self.size == Ok(0) {
            found.push("size is 0".into());
        }
        if self.threshold == Ok(0) && self.mode.as_deref() == Ok("shared") {
            found.push("threshold is 0".into());
        }
        if let Ok(transfer) = self.transfer
            && transfer < LEAST_TRANSFER
        {
            found.push(format!(
                "max_transfer_size is {transfer}, must be {GOOD_TRANSFER} or more: the \
                 decompressor's state of {LEAST_TRANSFER} bytes counts too"
            ));
        }
        found
    }

    /// What is worth mending although pages get through.
    fn weaknesses(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Ok(transfer) = self.transfer
            && (LEAST_TRANSFER..GOOD_TRANSFER).contains(&transfer)
        {
            found.push(format!("max_transfer_size is {transfer}, should be {GOOD_TRANSFER}"));
        }
        if self.block_on_fault == Ok(0) {
            found.push("block_on_fault is 0: pages that fault go to software".into());
        }
        found
    }

    fn describe(&self) -> String {
        let word = |value: &Result<String, Lack>| match value {
            Ok(value) => value.clone(),
            Err(_) => "?".into(),
        };
        let number = |value: &Result<u64, Lack>| match value {
            Ok(value) => value.to_string(),
            Err(_) => "?".into(),
        };
        format!(
            "{}, {}, type {}, size {}, threshold {}, priority {}, max_transfer_size {}, \
             block_on_fault {}",
            word(&self.state),
            word(&self.mode),
            word(&self.kind),
            number(&self.size),
            number(&self.threshold),
            number(&self.priority),
            number(&self.transfer),
            number(&self.block_on_fault),
        )
    }

    fn unreadable(&self) -> Option<String> {
        let texts = [("state", &self.state), ("mode", &self.mode), ("type", &self.kind)];
        let numbers = [("size", &self.size), ("max_transfer_size", &self.transfer)];
        let texts = texts.into_iter().filter_map(|(name, v)| Some((name, v.as_ref().err()?)));
        let numbers = numbers.into_iter().filter_map(|(name, v)| Some((name, v.as_ref().err()?)));
        texts.chain(numbers).next().map(|(name, lack)| format!("{name} {lack}"))
    }
}

/// Sets a device up from nothing with this queue. A queue forgets its settings
/// when it is disabled, and size and threshold can only be set while the whole
/// device is, so nothing less works in every case.
fn set_up(iax: &Iax, queue: &str, others: &[&str]) -> String {
    let device = &iax.name;
    let mut lines = Vec::new();
    if iax.enabled() {
        if !others.is_empty() {
            lines.push(format!(
                "# this stops the other queues of {device} as well: {}",
                others.join(", ")
            ));
        }
        lines.push(format!("sudo accel-config disable-device {device}"));
    }
    let engines: Vec<_> = (0..iax.engines).map(|n| n.to_string()).collect();
    lines.push(format!(
        "for n in {}; do sudo accel-config config-engine {device}/engine{}.$n -g 0; done",
        engines.join(" "),
        iax.number()
    ));
    lines.push(format!(
        "sudo accel-config config-wq {device}/{queue} -g 0 -m shared -s 128 -t 120 -p 10 -b 1 \
         -x 2097152 -y user -n app -d user"
    ));
    lines.push(format!("sudo accel-config enable-device {device}"));
    lines.push(format!("sudo accel-config enable-wq {device}/{queue}"));
    lines.join("\n")
}

/// Judges devices, queues and nodes; returns the nodes that can be used.
pub(super) fn check(chain: &mut Chain, root: &Root, devices: &Devices, probes: &Probes) -> Nodes {
    let mut nodes = Nodes::default();
    let mut lines: Vec<Check> = Vec::new();
    let mut usable = Vec::new();
    let mut kernels = None;
    let bus = root.names(BUS).unwrap_or_default();
    for iax in &devices.iax {
        let prefix = format!("wq{}.", iax.number());
        let queues: Vec<Queue> = bus
            .iter()
            .filter(|name| name.starts_with(&prefix))
            .map(|name| Queue::read(root, name))
            .filter(Queue::configured)
            .collect();
        let first = format!("{prefix}0");
        if !queues.is_empty() && queues.iter().all(Queue::kernels) {
            kernels.get_or_insert(iax);
        }
        lines.push(device(iax, &first, queues.is_empty()));
        for queue in &queues {
            let others: Vec<&str> = queues
                .iter()
                .map(|other| other.name.as_str())
                .filter(|name| *name != queue.name)
                .collect();
            let line = judge(chain, iax, queue, &others);
            let enabled = iax.enabled() && queue.enabled();
            let fit = enabled && queue.defects().is_empty() && !queue.kernels();
            lines.push(line);
            if fit {
                let (node, opens) = node(root, &queue.name, probes, &mut nodes);
                lines.push(node);
                if opens != Some(false) {
                    usable.push((queue.name.clone(), opens));
                }
            }
        }
    }
    // Where one queue serves, what the others lack is no reason for anything.
    let served = !usable.is_empty();
    for mut line in lines {
        line.advice |= served;
        chain.push(line);
    }
    let summary = summary(chain, devices, &usable, kernels);
    chain.push(summary);
    nodes
}

fn complaint(iax: &Iax) -> String {
    iax.complaint.as_ref().map(|words| format!("; {words}")).unwrap_or_default()
}

fn device(iax: &Iax, first_queue: &str, empty: bool) -> Check {
    let id = format!("device:{}", iax.name);
    let title = format!("device {}", iax.name);
    match iax.state.as_deref() {
        Err(lack) => Check::unknown(&id, &title, format!("state {lack}")),
        Ok("enabled") if empty => Check::bad(
            &id,
            &title,
            "enabled, but no work queue is set up",
            set_up(iax, first_queue, &[]),
        ),
        Ok("enabled") => Check::good(&id, &title, "enabled"),
        Ok("halted") => Check::bad(
            &id,
            &title,
            "halted after a hardware error",
            "sudo dmesg | grep -i idxd  # says why\n\
             sudo modprobe -r iaa_crypto idxd; sudo modprobe idxd",
        ),
        Ok(state) if empty => Check::bad(
            &id,
            &title,
            format!("{state}, and no work queue is set up"),
            set_up(iax, first_queue, &[]),
        ),
        Ok(state) => {
            let detail = format!("{state}{}", complaint(iax));
            Check::bad(&id, &title, detail, format!("sudo accel-config enable-device {}", iax.name))
        }
    }
}

fn judge(chain: &Chain, iax: &Iax, queue: &Queue, others: &[&str]) -> Check {
    let id = format!("queue:{}", queue.name);
    let title = format!("work queue {}", queue.name);
    let described = queue.describe();
    if queue.kernels() {
        let detail = format!("belongs to the kernel ({described})");
        return Check::not_needed(&id, &title, detail);
    }
    let defects = queue.defects();
    if !defects.is_empty() {
        let detail = format!("{} ({described})", defects.join("; "));
        return Check::bad(&id, &title, detail, set_up(iax, &queue.name, others));
    }
    if let Some(why) = queue.unreadable() {
        return Check::unknown(&id, &title, why);
    }
    if !iax.enabled() {
        return Check::needs(&id, &title, format!("device {}", iax.name));
    }
    if !queue.enabled() {
        if let Some(first) = chain.lacking(&["sva"]) {
            return Check::needs(&id, &title, first);
        }
        let fix = format!("sudo accel-config enable-wq {}/{}", iax.name, queue.name);
        let detail = format!("not enabled{} ({described})", complaint(iax));
        return Check::bad(&id, &title, detail, fix);
    }
    let weaknesses = queue.weaknesses();
    if !weaknesses.is_empty() {
        let detail = format!("{} ({described})", weaknesses.join("; "));
        return Check::bad(&id, &title, detail, set_up(iax, &queue.name, others)).advice();
    }
    Check::good(&id, &title, described)
}

/// Judges a node, and says whether it opens if that was tried.
fn node(root: &Root, queue: &str, probes: &Probes, nodes: &mut Nodes) -> (Check, Option<bool>) {
    let id = format!("node:{queue}");
    let title = format!("node /dev/iax/{queue}");
    let path = format!("/{NODES}/{queue}");
    if !root.exists(&format!("{NODES}/{queue}")) {
        let check = Check::bad(
            &id,
            &title,
            "does not exist",
            format!("sudo udevadm trigger  # in a container: start it with --device {path}"),
        );
        return (check, Some(false));
    }
    match probes.nodes.get(queue) {
        None => (Check::unknown(&id, &title, "there; opening it was not tried"), None),
        Some(NodeProbe::Mapped) => {
            nodes.mapped.push(queue.into());
            (Check::good(&id, &title, "opens, and the portal can be mapped"), Some(true))
        }
        Some(NodeProbe::WriteOnly { why }) => {
            nodes.write_only.push(queue.into());
            let detail = format!("opens; mapping the portal: {why}, so write(2) is left");
            (Check::good(&id, &title, detail), Some(true))
        }
        Some(NodeProbe::Denied { why }) => {
            let groups = root.read("etc/group").unwrap_or_default();
            let fix = match groups.lines().any(|line| line.starts_with("dsadev:")) {
                true => format!(
                    "sudo chgrp dsadev {path} && sudo chmod g+rw {path}\n\
                     sudo usermod -aG dsadev $USER  # then log in again"
                ),
                false => format!("sudo chown $USER {path}"),
            };
            (Check::bad(&id, &title, format!("this user may not open it: {why}"), fix), Some(false))
        }
        Some(NodeProbe::Failed { why }) => {
            let fix = "sudo dmesg | grep -i -e idxd -e DMAR  # says why".to_owned();
            (Check::bad(&id, &title, format!("cannot be opened: {why}"), fix), Some(false))
        }
    }
}

fn summary(
    chain: &Chain,
    devices: &Devices,
    usable: &[(String, Option<bool>)],
    kernels: Option<&Iax>,
) -> Check {
    const ID: &str = "queues";
    const TITLE: &str = "usable work queues";
    let names: Vec<&str> = usable.iter().map(|(name, _)| name.as_str()).collect();
    if usable.iter().any(|(_, opens)| *opens == Some(true)) {
        return Check::good(ID, TITLE, names.join(", "));
    }
    if !names.is_empty() {
        let detail = format!("{} by their settings; not opened", names.join(", "));
        return Check::unknown(ID, TITLE, detail);
    }
    if let Some(first) = chain.lacking(&["pci", "driver", "sva"]) {
        return Check::needs(ID, TITLE, first);
    }
    let below = |check: &&Check| {
        let (kind, _) = check.id.split_once(':').unwrap_or_default();
        ["device", "queue", "node"].contains(&kind) && check.state == super::State::Bad
    };
    if let Some(check) = chain.checks.iter().find(below) {
        return Check::needs(ID, TITLE, check.title.clone());
    }
    if let Some(iax) = kernels {
        let queue = format!("wq{}.1", iax.number());
        let fix = set_up(iax, &queue, &["the kernel's own"]);
        return Check::bad(ID, TITLE, "all belong to the kernel", fix);
    }
    let why = match devices.iax.is_empty() {
        true => "no device is known",
        false => "none, for reasons that cannot be read",
    };
    Check::unknown(ID, TITLE, why)
}
