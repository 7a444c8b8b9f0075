//! The cylinder, head and sector numbers that a footer carries for old BIOSes.
//!
//! The calculation is the one of the VHD image format specification's appendix. The result usually describes
//! less than the disk: it is never rounded up, because libvhd's checker refuses a geometry above this one.

/// Largest number of sectors that a geometry can describe.
const MAX_SECTORS: u64 = 65_535 * 16 * 255;

/// A disk's geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Number of cylinders.
    pub cylinders: u16,
    /// Number of heads.
    pub heads: u8,
    /// Number of sectors in a track.
    pub sectors_per_track: u8,
}

impl Geometry {
    /// The geometry for a virtual size in bytes.
    pub fn of(virtual_size: u64) -> Self {
        let sectors = (virtual_size / 512).min(MAX_SECTORS);
        let (heads, sectors_per_track) = if sectors >= 65_535 * 16 * 63 {
            (16, 255)
        } else {
            let tracks = sectors / 17;
            let heads = tracks.div_ceil(1024).max(4);
            if tracks < heads * 1024 && heads <= 16 {
                (heads, 17)
            } else if sectors / 31 < 16 * 1024 {
                (16, 31)
            } else {
                (16, 63)
            }
        };
        // Below the ceiling every quotient fits: 65 535 cylinders, 16 heads, 255 sectors.
        Self {
            cylinders: u16::try_from(sectors / sectors_per_track / heads).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(u8::MAX),
            sectors_per_track: u8::try_from(sectors_per_track).unwrap_or(u8::MAX),
        }
    }

    /// Number of sectors that this geometry describes.
    pub fn sectors(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors_per_track)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chs(virtual_size: u64) -> (u16, u8, u8) {
        let g = Geometry::of(virtual_size);
        (g.cylinders, g.heads, g.sectors_per_track)
    }

    /// The values are those that qemu-img 10.0 writes for disks of exactly these sizes.
    #[test]
    fn known_sizes_have_their_known_geometries() {
        assert_eq!(chs(67_125_248), (964, 8, 17));
        assert_eq!(chs(64 << 20), (963, 8, 17));
        assert_eq!(chs(136_899_993_600), (65_535, 16, 255));
        assert_eq!(chs(2040 << 30), (65_535, 16, 255));
        assert_eq!(chs(512), (0, 4, 17));
    }

    #[test]
    fn a_geometry_never_describes_more_than_the_disk() {
        for size in (0..200u64).map(|n| n * n * n * 17_408 * 512).chain([MAX_SECTORS * 512 - 512]) {
            assert!(Geometry::of(size).sectors() <= size / 512, "size {size}");
        }
    }
}
