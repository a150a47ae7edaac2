//! The main stream of a generated recording, and the devices it makes up.

use serde_json::json;

use super::{
    GenerateOptions,
    plan::{Plan, mix},
};
use crate::wire::{MAIN_MAGIC, PAGE_SIZE};

/// Machine type of the imagined VM.
pub(super) const MACHINE: &str = "pc-q35-10.0";

/// Section id of RAM; sources number as they like.
const RAM: u32 = 2;
/// First section id of the devices.
const DEVICES: u32 = 3;

const MEM_SIZE: u64 = 0x004;
const EOS: u64 = 0x010;
const FLUSH: u64 = 0x200;

/// A made-up device: name, instance, version of its state, and fields with
/// their sizes and lengths as arrays.
struct Device {
    idstr: &'static str,
    instance: u32,
    version: u32,
    fields: &'static [(&'static str, u64, Option<u64>)],
    subsection: Option<(&'static str, u64)>,
}

const SUBDEVICE_VERSION: u32 = 1;

const IMAGINED: [Device; 6] = [
    Device {
        idstr: "timer",
        instance: 0,
        version: 2,
        fields: &[("ticks", 8, None), ("unused", 8, None), ("offset", 8, None)],
        subsection: None,
    },
    Device {
        idstr: "cpu_common",
        instance: 0,
        version: 1,
        fields: &[("halted", 4, None), ("interrupt_request", 4, None)],
        subsection: None,
    },
    Device {
        idstr: "cpu",
        instance: 0,
        version: 12,
        fields: &[("regs", 8, Some(16)), ("eip", 8, None), ("xmm_regs", 64, Some(16))],
        subsection: Some(("cpu/xcrs", 24)),
    },
    Device {
        idstr: "apic",
        instance: 0,
        version: 3,
        fields: &[("apicbase", 4, None), ("isr", 4, Some(8)), ("timer_expiry", 8, None)],
        subsection: None,
    },
    Device {
        idstr: "0000:00:1f.0/ICH9LPC",
        instance: 0,
        version: 1,
        fields: &[("d", 277, None), ("chip_config", 1, Some(16384))],
        subsection: Some(("ICH9LPC/rst_cnt", 1)),
    },
    Device {
        idstr: "globalstate",
        instance: 0,
        version: 1,
        fields: &[("size", 4, None), ("runstate", 100, None)],
        subsection: None,
    },
];

/// RAM sections: START, for each round but the last one with pages and one
/// without any, and END.
pub(super) fn sections(options: &GenerateOptions) -> u64 {
    2 + 2 * u64::from(parts(options))
}

/// Rounds that come in PART sections. The last one comes in END, unless there
/// is only one.
fn parts(options: &GenerateOptions) -> u32 {
    options.rounds.max(2) - 1
}

/// The whole main stream; it is small whatever the guest's size.
pub(super) fn encode(plan: &Plan, options: &GenerateOptions) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&MAIN_MAGIC);
    put32(&mut out, 3);
    out.push(0x07);
    put32(&mut out, MACHINE.len() as u32);
    out.extend_from_slice(MACHINE.as_bytes());
    if options.return_path {
        command(&mut out, 1, &[]);
        command(&mut out, 2, &1u32.to_be_bytes());
    }

    section_header(&mut out, 0x01, RAM, "ram", 0, 4);
    let total: u64 = plan.blocks().iter().map(|block| block.pages).sum();
    put64(&mut out, (total * PAGE_SIZE as u64) | MEM_SIZE);
    for block in plan.blocks() {
        name(&mut out, block.name);
        put64(&mut out, block.pages * PAGE_SIZE as u64);
    }
    records(&mut out, &[FLUSH]);
    for _ in 0..parts(options) {
        // A source gives other work a turn before a round is through.
        ram_section(&mut out, 0x02, &[]);
        ram_section(&mut out, 0x02, &[FLUSH]);
    }
    command(&mut out, 11, &[]);
    let rest = super::marks(options) - 1 - u64::from(parts(options));
    ram_section(&mut out, 0x03, &vec![FLUSH; rest as usize]);

    for (index, device) in IMAGINED.iter().enumerate() {
        device.encode(DEVICES + index as u32, options.seed, &mut out);
    }
    out.push(0x00);
    let vmdesc = vmdesc();
    out.push(0x06);
    put32(&mut out, vmdesc.len() as u32);
    out.extend_from_slice(vmdesc.as_bytes());
    out
}

fn vmdesc() -> String {
    let devices: Vec<_> = IMAGINED.iter().map(Device::describe).collect();
    json!({ "configuration": { "vmsd_name": "configuration", "version": 1 },
            "page_size": PAGE_SIZE, "devices": devices })
    .to_string()
}

impl Device {
    fn encode(&self, id: u32, seed: u64, out: &mut Vec<u8>) {
        let mut noise = (1u64..).map(|step| mix(seed ^ u64::from(id) << 32 ^ step) as u8);
        let sizes = self.fields.iter().map(|(_, size, count)| size * count.unwrap_or(1));
        section_header(out, 0x04, id, self.idstr, self.instance, self.version);
        out.extend(noise.by_ref().take(sizes.sum::<u64>() as usize));
        if let Some((vmsd, size)) = self.subsection {
            out.push(0x05);
            name(out, vmsd);
            put32(out, SUBDEVICE_VERSION);
            out.extend(noise.take(size as usize));
        }
        footer(out, id);
    }

    fn describe(&self) -> serde_json::Value {
        let field = |&(name, size, count): &(&str, u64, Option<u64>)| match count {
            Some(count) => {
                json!({ "name": name, "array_len": count, "type": "buffer", "size": size })
            }
            None => json!({ "name": name, "type": "buffer", "size": size }),
        };
        let fields: Vec<_> = self.fields.iter().map(field).collect();
        let mut device = json!({
            "name": self.idstr,
            "instance_id": self.instance,
            "vmsd_name": self.idstr.rsplit('/').next(),
            "version": self.version,
            "fields": fields,
        });
        if let Some((vmsd, size)) = self.subsection {
            device["subsections"] = json!([{
                "vmsd_name": vmsd,
                "version": SUBDEVICE_VERSION,
                "fields": [{ "name": "state", "type": "buffer", "size": size }],
            }]);
        }
        device
    }
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

fn command(out: &mut Vec<u8>, command: u16, payload: &[u8]) {
    out.push(0x08);
    put16(out, command);
    put16(out, payload.len() as u16);
    out.extend_from_slice(payload);
}

fn section_header(out: &mut Vec<u8>, kind: u8, id: u32, idstr: &str, instance: u32, version: u32) {
    out.push(kind);
    put32(out, id);
    name(out, idstr);
    put32(out, instance);
    put32(out, version);
}

fn ram_section(out: &mut Vec<u8>, kind: u8, words: &[u64]) {
    out.push(kind);
    put32(out, RAM);
    records(out, words);
}

/// Records without a payload, and the end of the section.
fn records(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|&word| put64(out, word));
    put64(out, EOS);
    footer(out, RAM);
}

fn footer(out: &mut Vec<u8>, id: u32) {
    out.push(0x7e);
    put32(out, id);
}
