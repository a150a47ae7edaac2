//! The vmdesc: JSON behind the EOF byte that describes every device section,
//! field by field. Adding the fields up gives the sections' lengths, which the
//! stream itself doesn't tell.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::SectionInfo;
use super::devices::{FOOTER, FOOTER_LEN, SectionHeader};

/// Whether these bytes are one JSON value.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

/// Cuts the device sections by the lengths that the vmdesc tells. `bytes` ends
/// with the EOF byte; `early` names the sections that came before RAM and lead
/// the list. `None` if the vmdesc doesn't fit the bytes to the last one, which
/// happens: sources before 10.0 describe some arrays wrongly.
pub(super) fn cut(vmdesc: &[u8], bytes: &[u8], early: &[String]) -> Option<Vec<SectionInfo>> {
    let vmdesc: Vmdesc = serde_json::from_slice(vmdesc).ok()?;
    let (described_early, devices) = vmdesc.devices.split_at_checked(early.len())?;
    if !described_early.iter().map(|device| &device.name).eq(early) {
        return None;
    }

    let eof = bytes.len().checked_sub(1)?;
    let mut sections = Vec::new();
    let mut at = 0usize;
    for device in devices {
        let header = SectionHeader::parse(&bytes[..eof], at).ok()?;
        if header.idstr != device.name || i64::from(header.instance) != device.instance_id {
            return None;
        }
        let body = usize::try_from(device.body_len()).ok()?;
        let footer = header.end.checked_add(body)?;
        let end = footer.checked_add(FOOTER_LEN)?;
        if bytes.get(footer..end)?.split_first()? != (&FOOTER, &header.id.to_be_bytes()[..]) {
            return None;
        }
        sections.push(header.into_info(at, end));
        at = end;
    }
    (at == eof).then_some(sections)
}

#[derive(Deserialize)]
struct Vmdesc {
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    instance_id: i64,
    #[serde(default)]
    fields: Vec<Field>,
    #[serde(default)]
    subsections: Vec<Subsection>,
}

#[derive(Deserialize)]
struct Subsection {
    vmsd_name: String,
    #[serde(default)]
    fields: Vec<Field>,
    #[serde(default)]
    subsections: Vec<Self>,
}

/// A field's size covers what is nested in it.
#[derive(Deserialize)]
struct Field {
    size: u64,
    array_len: Option<u64>,
}

impl Device {
    fn body_len(&self) -> u64 {
        state_len(&self.fields, &self.subsections)
    }
}

/// Sums saturate: a length that large fits no section.
fn state_len(fields: &[Field], subsections: &[Subsection]) -> u64 {
    // Type byte, length byte and version around the name.
    const SUBSECTION_HEADER: u64 = 1 + 1 + 4;
    let fields = fields
        .iter()
        .map(|field| field.size.saturating_mul(field.array_len.unwrap_or(1)))
        .fold(0, u64::saturating_add);
    subsections.iter().fold(fields, |sum, sub| {
        let state = state_len(&sub.fields, &sub.subsections);
        sum.saturating_add(SUBSECTION_HEADER + sub.vmsd_name.len() as u64).saturating_add(state)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_arrays_and_nested_subsections() {
        let json = r#"{"name": "d", "instance_id": 0, "vmsd_name": "x", "version": 1,
            "fields": [{"name": "a", "type": "uint8", "size": 1},
                       {"name": "b", "array_len": 10, "type": "uint32", "size": 4,
                        "struct": {"fields": [{"size": 4}]}}],
            "subsections": [{"vmsd_name": "x/s", "version": 1,
                "fields": [{"name": "c", "size": 8}],
                "subsections": [{"vmsd_name": "x/s/t", "version": 1, "fields": []}]}]}"#;
        let device: Device = serde_json::from_str(json).unwrap();
        assert_eq!(device.body_len(), 1 + 40 + (6 + 3 + 8) + (6 + 5));
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let json = format!(
            r#"{{"name": "d", "instance_id": 0, "fields": [{{"size": {0}, "array_len": {0}}}, {{"size": 9}}]}}"#,
            u64::MAX
        );
        let device: Device = serde_json::from_str(&json).unwrap();
        assert_eq!(device.body_len(), u64::MAX);
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        let deep = "[".repeat(100_000);
        assert!(!is_json(deep.as_bytes()));
    }
}
