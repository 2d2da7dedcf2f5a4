//! The map, the locks that it uses, and the format of images, as fuzz targets see them.

#[path = "../../src/model/mod.rs"]
pub mod model;

/// The part of images that is pure data.
#[path = "../../src/image"]
pub mod image {
    pub mod chunk;
    pub mod header;
}

/// The part of the system calls that the map's locks are made of.
#[path = "../../src/sys"]
pub mod sys {
    pub mod errno;
    pub mod fork;
    pub mod futex;
    pub mod lock;
    pub mod sync;
}
