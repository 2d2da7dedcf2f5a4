//! The map, the locks that it uses, and all that reads what others wrote, as fuzz targets see them.

#[path = "../../src/model/mod.rs"]
pub mod model;

/// The readers of dumps.
#[path = "../../src/dump/mod.rs"]
pub mod dump;

/// The part of images that is pure data.
#[path = "../../src/image"]
pub mod image {
    pub mod chunk;
    pub mod header;
}

/// The part of streams that is pure data.
#[path = "../../src/stream"]
pub mod stream {
    pub mod record;
}

/// The messages between a leader and its followers.
#[path = "../../src/clients"]
pub mod clients {
    pub mod share {
        pub mod record;
        pub mod wire;
    }
}

/// The part of the system calls that the map's locks are made of, and what a message can hold.
#[path = "../../src/sys"]
pub mod sys {
    pub mod errno;
    pub mod fork;
    pub mod futex;
    pub mod lock;
    pub mod poll;
    pub mod socket;
    pub mod sync;
}
