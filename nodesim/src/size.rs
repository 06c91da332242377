//! VM sizes: what a node of each public Azure size has, and what of it pods may use.
//!
//! Figures: the size pages of the Azure virtual machine documentation. Reservations: the AKS page
//! "Node resource reservations" (rule for 1.29 and later).

/// Bytes in a mebibyte.
const MIB: i64 = 1 << 20;
/// Bytes in a gibibyte.
const GIB: i64 = 1 << 30;

/// Size of a pool that does not name one.
pub const DEFAULT_SIZE: &str = "Standard_D4s_v5";

/// What the OS disk is made of; it decides how fast images are pulled and unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskKind {
    /// Premium SSD (sizes whose name carries an `s`).
    PremiumSsd,
    /// Standard HDD.
    StandardHdd,
}

/// One row of the catalogue.
#[derive(Debug, PartialEq, Eq)]
pub struct VmSize {
    /// Public name, `Standard_D4s_v5`.
    pub name: &'static str,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Local temporary disk, in GiB; 0 where the size has none.
    pub temp_disk_gib: u32,
    /// GPUs of the kind `nvidia.com/gpu`.
    pub gpus: u32,
    /// Most data disks that can be attached.
    pub data_disks: u32,
    /// `amd64` or `arm64`.
    pub arch: &'static str,
    /// Kind of the OS disk by default.
    pub disk: DiskKind,
}

const fn row(name: &'static str, vcpus: u32, gib: u32, temp_disk_gib: u32, data_disks: u32) -> VmSize {
    VmSize {
        name,
        vcpus,
        memory_mib: gib * 1024,
        temp_disk_gib,
        gpus: 0,
        data_disks,
        arch: "amd64",
        disk: DiskKind::PremiumSsd,
    }
}

const fn arm(size: VmSize) -> VmSize {
    VmSize { arch: "arm64", ..size }
}

const fn gpu(size: VmSize, gpus: u32) -> VmSize {
    VmSize { gpus, ..size }
}

const fn hdd(size: VmSize) -> VmSize {
    VmSize { disk: DiskKind::StandardHdd, ..size }
}

/// Every size that a pool may have.
pub const CATALOGUE: &[VmSize] = &[
    row("Standard_B2s", 2, 4, 8, 4),
    row("Standard_B2ms", 2, 8, 16, 4),
    row("Standard_B4ms", 4, 16, 32, 8),
    row("Standard_B8ms", 8, 32, 64, 16),
    hdd(row("Standard_A2_v2", 2, 4, 20, 4)),
    hdd(row("Standard_A4_v2", 4, 8, 40, 8)),
    hdd(row("Standard_A8_v2", 8, 16, 80, 16)),
    row("Standard_DS2_v2", 2, 7, 14, 8),
    row("Standard_DS3_v2", 4, 14, 28, 16),
    row("Standard_DS4_v2", 8, 28, 56, 32),
    hdd(row("Standard_D2_v3", 2, 8, 50, 4)),
    hdd(row("Standard_D4_v3", 4, 16, 100, 8)),
    row("Standard_D2s_v3", 2, 8, 16, 4),
    row("Standard_D4s_v3", 4, 16, 32, 8),
    row("Standard_D8s_v3", 8, 32, 64, 16),
    row("Standard_D2s_v5", 2, 8, 0, 4),
    row("Standard_D4s_v5", 4, 16, 0, 8),
    row("Standard_D8s_v5", 8, 32, 0, 16),
    row("Standard_D16s_v5", 16, 64, 0, 32),
    row("Standard_D32s_v5", 32, 128, 0, 32),
    row("Standard_D48s_v5", 48, 192, 0, 32),
    row("Standard_D64s_v5", 64, 256, 0, 32),
    row("Standard_D96s_v5", 96, 384, 0, 32),
    row("Standard_D2ds_v5", 2, 8, 75, 4),
    row("Standard_D4ds_v5", 4, 16, 150, 8),
    row("Standard_D8ds_v5", 8, 32, 300, 16),
    row("Standard_D16ds_v5", 16, 64, 600, 32),
    row("Standard_D2as_v5", 2, 8, 0, 4),
    row("Standard_D4as_v5", 4, 16, 0, 8),
    row("Standard_D8as_v5", 8, 32, 0, 16),
    arm(row("Standard_D2ps_v5", 2, 8, 0, 4)),
    arm(row("Standard_D4ps_v5", 4, 16, 0, 8)),
    arm(row("Standard_D8ps_v5", 8, 32, 0, 16)),
    row("Standard_E2s_v5", 2, 16, 0, 4),
    row("Standard_E4s_v5", 4, 32, 0, 8),
    row("Standard_E8s_v5", 8, 64, 0, 16),
    row("Standard_E16s_v5", 16, 128, 0, 32),
    row("Standard_E32s_v5", 32, 256, 0, 32),
    row("Standard_F2s_v2", 2, 4, 16, 4),
    row("Standard_F4s_v2", 4, 8, 32, 8),
    row("Standard_F8s_v2", 8, 16, 64, 16),
    row("Standard_F16s_v2", 16, 32, 128, 32),
    row("Standard_L8s_v3", 8, 64, 80, 16),
    gpu(row("Standard_NC4as_T4_v3", 4, 28, 176, 8), 1),
    gpu(row("Standard_NC8as_T4_v3", 8, 56, 352, 16), 1),
    gpu(row("Standard_NC6s_v3", 6, 112, 736, 12), 1),
    gpu(row("Standard_NC24s_v3", 24, 448, 2948, 32), 4),
];

/// The row with this name; Azure compares size names without regard to case.
pub fn find(name: &str) -> Option<&'static VmSize> {
    CATALOGUE.iter().find(|size| size.name.eq_ignore_ascii_case(name))
}

impl VmSize {
    /// CPU kept from pods, in thousandths of a core: 60 for the first core, 40 for the second, 20 each for the third and
    /// fourth, 10 for each further one. That meets every row of the published table (1: 60, 2: 100, 4: 140, 8: 180,
    /// 16: 260, 32: 420, 64: 740).
    pub fn reserved_cpu_millis(&self) -> i64 {
        (1..=self.vcpus).map(|core| [60, 40, 20, 20].get(core as usize - 1).copied().unwrap_or(10)).sum()
    }

    /// Memory kept from pods, in bytes: the lesser of 20 MB per possible pod + 50 MB and a quarter of all memory, plus
    /// the eviction threshold of 100 Mi.
    pub fn reserved_memory_bytes(&self, max_pods: u32) -> i64 {
        let by_pods = (20 * i64::from(max_pods) + 50) * MIB;
        by_pods.min(self.memory_bytes() / 4) + 100 * MIB
    }

    /// All memory, in bytes.
    pub fn memory_bytes(&self) -> i64 {
        i64::from(self.memory_mib) * MIB
    }

    /// Size of the OS disk that AKS gives by default, in GiB: by the number of vCPUs.
    pub fn os_disk_gib(&self) -> u32 {
        match self.vcpus {
            0..=7 => 128,
            8..=15 => 256,
            16..=63 => 512,
            _ => 1024,
        }
    }

    /// Local storage that pods may use, in bytes: the OS disk less the 10% at which the kubelet evicts.
    pub fn allocatable_storage_bytes(&self) -> i64 {
        i64::from(self.os_disk_gib()) * GIB / 10 * 9
    }

    /// CPU that pods may request, in thousandths of a core.
    pub fn allocatable_cpu_millis(&self) -> i64 {
        i64::from(self.vcpus) * 1000 - self.reserved_cpu_millis()
    }

    /// Memory that pods may request, in bytes.
    pub fn allocatable_memory_bytes(&self, max_pods: u32) -> i64 {
        self.memory_bytes() - self.reserved_memory_bytes(max_pods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_cpu_follows_the_published_table() {
        for (vcpus, want) in [(1, 60), (2, 100), (4, 140), (8, 180), (16, 260), (32, 420), (64, 740)] {
            assert_eq!(row("any", vcpus, 8, 0, 0).reserved_cpu_millis(), want, "{vcpus} cores");
        }
    }

    #[test]
    fn reserved_memory_follows_the_published_examples() {
        // 8 GB and 30 pods: 650 MB and the threshold; 4 GB and 70 pods: a quarter and the threshold.
        assert_eq!(row("any", 2, 8, 0, 0).reserved_memory_bytes(30), 750 * MIB);
        assert_eq!(row("any", 2, 4, 0, 0).reserved_memory_bytes(70), 1124 * MIB);
    }

    #[test]
    fn every_size_is_unique_and_leaves_room_for_pods() {
        for size in CATALOGUE {
            assert_eq!(CATALOGUE.iter().filter(|other| other.name == size.name).count(), 1, "{}", size.name);
            assert!(size.allocatable_cpu_millis() > 0 && size.allocatable_memory_bytes(110) > GIB, "{}", size.name);
        }
        assert_eq!(find("standard_d4S_V5").map(|size| size.name), find(DEFAULT_SIZE).map(|size| size.name));
        assert_eq!(find("Standard_Nope"), None);
    }
}
