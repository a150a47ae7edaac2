//! The published effect of a received map at the destination: "migration/multifd:
//! solve zero page causing multiple page faults" (QEMU commit 5ef7e26bdb),
//! 64 GiB VM, 16 vCPUs, 2 multifd channels, Sapphire Rapids with IAA.

/// A figure with the map and without it, as printed.
pub type Pair = (&'static str, &'static str);

/// One row.
#[derive(Debug)]
pub struct Published {
    /// The case of ours that is like it.
    pub case: &'static str,
    /// Data in the VM, as printed.
    pub vm: &'static str,
    /// Compression method.
    pub method: &'static str,
    /// Total time in milliseconds.
    pub total_ms: Pair,
    /// Page faults of the destination.
    pub page_faults: Option<Pair>,
    /// IOTLB flushes.
    pub iotlb_flushes: Option<Pair>,
    /// IO page faults.
    pub io_page_faults: Option<Pair>,
    /// Longest IO page fault in microseconds.
    pub longest_us: Option<Pair>,
}

/// All rows.
pub const PUBLISHED: [Published; 4] = [
    Published {
        case: "idle",
        vm: "2 GiB of 64 GiB",
        method: "none",
        total_ms: ("7335", "7771"),
        page_faults: Some(("2716", "121357")),
        iotlb_flushes: None,
        io_page_faults: None,
        longest_us: None,
    },
    Published {
        case: "full",
        vm: "56 GiB of 64 GiB",
        method: "none",
        total_ms: ("16825", "12987"),
        page_faults: Some(("52967", "2672677")),
        iotlb_flushes: None,
        io_page_faults: None,
        longest_us: None,
    },
    Published {
        case: "idle",
        vm: "2 GiB of 64 GiB",
        method: "qpl",
        total_ms: ("10224", "11253"),
        page_faults: None,
        iotlb_flushes: Some(("410", "80756")),
        io_page_faults: Some(("27429", "38655")),
        longest_us: Some(("447", "18349")),
    },
    Published {
        case: "full",
        vm: "56 GiB of 64 GiB",
        method: "qpl",
        total_ms: ("132315", ">138333"),
        page_faults: None,
        iotlb_flushes: Some(("890", "1647701")),
        io_page_faults: Some(("937105", "981899")),
        longest_us: Some(("9581", "21018")),
    },
];
