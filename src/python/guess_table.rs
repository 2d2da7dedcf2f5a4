//! The table of guesses: by class, what is looked for and what is meant. A line has several guesses for one name of ours.

type Guesses = &'static [(&'static str, &'static [(&'static str, &'static str)])];

/// Looked for on one of the classes, or on an object of it.
pub(super) const CLASSES: Guesses = &[
    ("GuestMemory", MEMORY),
    ("AddressSpace", SPACE),
    ("AddressSpace AddressSpaceBase Transaction", CHANGES),
    ("AddressSpace AddressSpaceBase", MAP),
    ("AddressSpaceRegion", REGION),
    ("AddressSpaceLayout", LAYOUT),
    ("BackingOptions", OPTIONS),
    ("AddressRange Mapping Reservation NumaNodeInfo", RANGE),
    (
        "AddressRange",
        &[
            ("stop limit end_addr high", "end"),
            ("overlaps intersects intersection intersect_with overlap", "intersect(other)"),
            ("last last_address", "last_addr"),
            ("contains", "`addr in range`"),
        ],
    ),
    (
        "Mapping",
        &[
            ("hva host ptr pointer host_addr userspace_addr addr", "host_address"),
            ("fileno", "fd"),
            ("offset mmap_offset", "file_offset"),
            ("prot protection permissions perms", "prot_flags"),
            ("name", "region.name"),
        ],
    ),
    (
        "DirtyPages",
        &[
            ("pages ranges regions tolist to_list", "iteration: list(pages) are its ranges"),
            ("nbytes bytes length total", "size"),
            ("len num_pages page_count", "count"),
            ("merge union update add", "the operator |"),
            ("intersection", "the operator &"),
            ("difference discard", "the operator -"),
            ("to_bitmap to_array numpy array", "bitmap(base, size)"),
        ],
    ),
    (
        "Reservation",
        &[
            ("stop limit end_addr high", "end"),
            ("insert add add_region", "insert_region(region)"),
            ("close free cancel unreserve", "release()"),
        ],
    ),
    (
        "DimmSlots",
        &[
            ("add insert hotplug attach plug_dimm", "plug(size, name=...)"),
            ("remove detach eject pull", "unplug(name)"),
            ("slots_used plugged list devices", "dimms"),
        ],
    ),
    (
        "MemoryBlocks",
        &[
            ("size plugged total", "plugged_size"),
            ("add insert", "plug(offset, size)"),
            ("remove free release", "unplug(offset, size)"),
            ("reset clear", "unplug_all()"),
            ("blocks ranges", "iteration: list(blocks) are its ranges"),
        ],
    ),
    (
        "AddressSpacePlan",
        &[
            ("validate check verify errors", "problems, or check_host()"),
            ("to_dict dump dumps json serialize save", "to_json()"),
            ("create make apply realize space", "build()"),
            ("nodes numa", "numa_nodes"),
        ],
    ),
    (
        "AddressSpaceBuilder",
        &[
            ("create make finish", "build()"),
            ("add_region add_memory with_memory memory", "AddressSpaceBuilder(numa_regions=[...])"),
            ("validate check", "plan().problems"),
        ],
    ),
    (
        "Attachment Subscription KvmSlots VhostUserClient",
        &[
            ("unsubscribe disconnect stop cancel unregister remove release", "detach()"),
            ("attached is_active active alive", "is_attached"),
            ("exception", "error"),
        ],
    ),
    ("KvmSlots", &[("slots", "base_to_slot"), ("get_dirty_log dirty dirty_pages dirty_bitmap", "dirty_log()")]),
    // Makers, which are looked for on the class itself.
    (
        "AddressSpaceRegion",
        &[
            (
                "from_fd from_path from_memfd open from_image map_file",
                "AddressSpaceRegion.from_file(base, size, file), which takes paths, descriptors and files",
            ),
            (
                "from_bytes from_memory from_mmap from_array from_numpy from_bytearray from_ptr",
                "AddressSpaceRegion.from_buffer(base, buffer)",
            ),
            ("ram create_ram create_ram_region create", "AddressSpaceRegion(\"ram\", base, size)"),
            ("create_mmio_region create_io_region device mmio", "AddressSpaceRegion.create_device_region(base, size)"),
            ("create_rom_region rom firmware", "AddressSpaceRegion.create_firmware_region(base, size)"),
        ],
    ),
    (
        "AddressSpace",
        &[
            ("from_plan", "AddressSpacePlan.build()"),
            ("from_layout new create", "AddressSpace(layout)"),
            ("from_qemu", "adapters.qemu.read_space(execute)"),
        ],
    ),
    ("Machine", &[("from_name get machines list", "Machine.named(name)")]),
];

/// Looked for in the package.
pub(super) const MODULE: &[(&str, &str)] = &[
    ("Region MemoryRegion GuestRegion MemRegion AddressRegion RamRegion", "AddressSpaceRegion"),
    ("Space GuestAddressSpace PhysicalAddressSpace MemoryMap Map", "AddressSpace"),
    ("Memory GuestPhysicalMemory GuestRam PhysicalMemory GuestMemoryMmap", "GuestMemory"),
    ("Layout MemoryLayout", "AddressSpaceLayout"),
    ("Builder SpaceBuilder", "AddressSpaceBuilder"),
    ("Plan SpacePlan", "AddressSpacePlan"),
    ("Snapshot Base", "AddressSpaceBase"),
    ("Change Diff", "AddressSpaceChange"),
    ("RegionType MemoryRegionType MemoryType AddressSpaceType", "AddressSpaceRegionType"),
    ("SourceType MemType BackingType MemorySource", "MemorySourceType"),
    ("Protection Permissions Permission Perm ProtFlags PROT", "Prot"),
    ("Flags PermFlags MmapFlags", "MapFlags"),
    ("Options Backing MemoryOptions RegionOptions", "BackingOptions"),
    ("Range GuestRange MemoryRange", "AddressRange"),
    ("Pattern", "BytePattern"),
    ("DirtyLog DirtyBitmap", "DirtyPages"),
    ("Error AddressSpaceException DbsError GuestMemoryError", "AddressSpaceError"),
    ("OverlapError Overlap RegionOverlapError", "RegionOverlap"),
    ("UnmappedError InvalidGuestAddress InvalidAddress AddressNotFound", "UnmappedAddress"),
    ("BusyError Busy", "RegionBusy"),
    ("Dimm DimmSlot Dimms MemoryHotplug", "DimmSlots"),
    ("VirtioMem Blocks", "MemoryBlocks"),
    ("KvmClient Kvm KVM", "AddressSpace.attach_kvm(vm_fd)"),
    ("VhostUser Vhost", "AddressSpace.attach_vhost_user(sock)"),
    ("NumaRegion", "NumaRegionInfo"),
    ("E820 E820Table e820_table e820", "tables.e820(space)"),
    ("srat slit device_tree", "the module tables"),
    ("Progressbar tqdm ProgressBar", "tqdm_progress(bar)"),
];

const MEMORY: &[(&str, &str)] = &[
    (
        "find rfind index findall find_all scan grep search_memory search_bytes search_memory_u64 rindex",
        "search(needle), which iterates over the addresses",
    ),
    (
        "mem_read read_bytes read_memory read_phys read_physical read_at peek get get_bytes tobytes read_slice read_exact read_obj get_slice pread",
        "read(addr, size)",
    ),
    (
        "mem_write write_bytes write_memory write_phys write_physical write_at poke put set write_slice write_all write_obj load_bytes pwrite copy_from",
        "write(addr, data)",
    ),
    ("readinto read_to copy_to", "read_into(addr, buffer)"),
    ("zero clear zero_fill memset bzero zeros set_zero", "fill(addr, size, byte=0)"),
    ("read_struct unpack_from unpack_struct read_float read_f32 read_f64 read_format", "unpack(addr, fmt)"),
    ("write_struct pack_into pack_struct write_float write_f32 write_f64 write_format", "pack(addr, fmt, *values)"),
    ("read_byte read_int8 read_uint8 get_u8", "read_u8(addr)"),
    ("write_byte write_int8 write_uint8", "write_u8(addr, value)"),
    ("read_int16 read_uint16 read_short get_u16", "read_u16(addr)"),
    ("write_int16 write_uint16 write_short", "write_u16(addr, value)"),
    ("read_int read_int32 read_uint32 read_dword read_u32_le get_u32", "read_u32(addr)"),
    ("write_int write_int32 write_uint32 write_dword", "write_u32(addr, value)"),
    ("read_word read_int64 read_uint64 read_qword read_u64_le read_ptr read_pointer get_u64", "read_u64(addr)"),
    ("write_word write_int64 write_uint64 write_qword write_ptr write_pointer", "write_u64(addr, value)"),
    ("read_string read_str read_cstring read_cstr string_at strlen read_c_str", "read_c_string(addr)"),
    ("fromfile read_file read_volatile_from", "read_from(file, addr), which takes paths too"),
    ("load_file load_raw load_initrd load_firmware", "load_image(file, addr)"),
    ("load_kernel load_program load_vmlinux", "load_elf(file)"),
    (
        "save save_file dump_to_file tofile dump_memory write_file write_volatile_to save_to",
        "write_to(file, addr, size), which takes paths too",
    ),
    ("dump xxd hex hex_dump", "hexdump(addr, size)"),
    (
        "file as_file fileobj seek tell readline makefile stream io",
        "open(), which gives a file whose positions are addresses",
    ),
    ("ndarray numpy to_numpy as_numpy asarray as_array frombuffer np_array dtype shape", "array(addr, shape, dtype)"),
    ("memoryview buffer as_view get_view getbuffer data tobuffer map cast", "view(addr, size)"),
    ("move memmove memcpy copyto copy_within", "copy(dst, src, size)"),
    ("memcmp equal equals diff cmp", "compare(addr, data)"),
    ("sha256 digest checksum crc32 md5 blake3 hexdigest", "hash(addr, size, algorithm=...)"),
    ("cas cmpxchg compare_and_swap compare_and_exchange", "compare_exchange(addr, expected, new)"),
    ("xchg exchange atomic_exchange", "swap(addr, value)"),
    ("atomic_load load_u64 load_u32 atomic_read", "load(addr, size)"),
    ("atomic_store store_u64 store_u32 atomic_write", "store(addr, value, size)"),
    ("atomic_add fetch_and_add add", "fetch_add(addr, value)"),
    (
        "hva host_addr host_ptr to_host addressof address_of get_host_address gpa_to_hva to_hva translate_address ctypes ptr",
        "host_address(addr)",
    ),
    (
        "is_valid is_valid_address address_in_range check_address contains has is_mapped valid range_accessible",
        "check_range(addr, size)",
    ),
    ("populate prefault touch preallocate mlock fault_in", "prealloc()"),
    ("punch_hole release free madvise dontneed trim balloon", "discard(addr, size)"),
    ("mem_regions iter ranges num_regions region_list memory_map maps", "regions, or mappings()"),
    ("size length nbytes total_size", "regions: sum(region.size for region in memory.regions)"),
    ("find_region region_at last_addr get_region", "the space: space.find_region(addr), space.last_addr"),
    ("mem_map mem_map_ptr add_region map_region insert_region", "the space: space.insert_region(region)"),
    ("mem_unmap unmap remove_region", "the space: space.remove_region(region)"),
    ("mem_protect mprotect protect", "the space: space.protect(addr, size, prot_flags)"),
    ("flush msync sync resize", "nothing: writes are there at once, and a region's size stays"),
    ("numa placement numa_nodes", "effective(), or verify_placement()"),
    (
        "dirty_log get_dirty_log dirty_bitmap dirty_pages",
        "dirty.start(), or KvmSlots.dirty_log() of space.attach_kvm(vm_fd, dirty_log=True)",
    ),
    ("wait_for wait_until wait_on wait_change futex_wait futex monitor mwait", "wait_value(addr, expected)"),
    ("wake notify futex_wake signal notify_all", "wake_value(addr)"),
    ("scatter_read read_vectored readv_bytes read_many", "readv(ranges)"),
    ("write_vectored write_many scatter_write", "writev(pairs)"),
    ("closed is_closed is_open", "the space: space.is_mapped"),
];

const SPACE: &[(&str, &str)] = &[
    ("map mmap allocate_memory create_memory map_all", "map_memory(), which gives each region its bytes"),
    ("unmap_memory shutdown destroy unmap_all", "close()"),
    ("mem_read read read_memory read_bytes read_phys", "memory.read(addr, size)"),
    ("mem_write write write_memory write_bytes write_phys", "memory.write(addr, data)"),
    ("fill search view array hexdump find", "memory, which has this verb"),
    ("get_memory guest_memory mem ram", "memory"),
    (
        "alloc allocate allocate_region find_gap find_hole find_free_region find_space",
        "find_free(size), or reserve(size, owner=...)",
    ),
    ("base current get_base get_snapshot copy clone freeze", "snapshot()"),
    ("begin edit batch update atomic", "transaction()"),
    (
        "on_change add_listener listen observe register add_observer watch add_client hook_add",
        "subscribe(client_or_callable)",
    ),
    ("unsubscribe remove_listener detach", "Attachment.detach(), of what subscribe() and attach_*() return"),
    ("mmio_map attach_mmio register_device add_device add_mmio map_io register_mmio", "attach_device(region, handler)"),
    ("mmio_read mmio_write io_read io_write handle_mmio handle_exit mmio access", "dispatch(addr, size, value=None)"),
    ("attach_qemu qemu", "adapters.qemu"),
    ("attach_gdb gdb", "adapters.gdb.script(memory)"),
    ("attach_volatility attach_volatility3 volatility", "adapters.volatility3.attach(space, context)"),
    ("kvm set_user_memory_region", "attach_kvm(vm_fd)"),
    ("hotplug plug add_dimm hotplug_memory", "DimmSlots(space, plan=plan)"),
    ("hotunplug unplug unplug_region", "request_unplug(region)"),
    ("wait wait_change", "wait_for_change(generation)"),
    ("mapped", "is_mapped"),
    ("snapshot_to save_snapshot save_image write_image persist hibernate", "save(path)"),
    ("load_snapshot restore_snapshot from_image load_image", "restore(path)"),
    ("attachments listeners subscribers observers", "clients"),
];

const CHANGES: &[(&str, &str)] = &[
    ("insert add add_region append add_memory_region mem_map map_region insert_regions", "insert_region(region)"),
    ("remove delete delete_region pop discard_region mem_unmap unmap unmap_region del_region", "remove_region(region)"),
    ("replace update_region modify_region set_region mem_protect mprotect", "replace_region(old, new)"),
];

const MAP: &[(&str, &str)] = &[
    (
        "lookup get get_region region_at region_for resolve find_by_addr locate lookup_region",
        "find_region(addr), or space[name]",
    ),
    ("items keys values list get_regions mem_regions iter_regions num_regions count", "regions"),
    ("holes free free_ranges unused empty", "gaps()"),
    ("overlaps intersects intersect find_overlapping regions_in", "overlapping(base, size)"),
    ("size total total_size total_memory memory_size ram_bytes", "ram_size"),
    ("end max_addr last_address top", "last_addr"),
    ("walk foreach for_each iterate visit", "walk_regions(callback), or iteration"),
    ("version revision", "generation"),
    ("compare delta", "diff(after)"),
    ("is_valid_address address_in_range contains has_region has", "`region in space`, or find_region(addr)"),
    ("e820 e820_table", "tables.e820(space)"),
    ("to_json to_dict dump dumps", "AddressSpacePlan.to_json(), or pickle of snapshot()"),
    ("numa_nodes numa_node get_numa_node", "numa_node_id(addr)"),
];

const REGION: &[(&str, &str)] = &[
    ("start begin addr address low guest_addr gpa phys_addr guest_phys_addr first start_addr start_address", "base"),
    ("length len nbytes memory_size bytes", "size"),
    ("stop limit end_addr end_address high", "end"),
    ("last last_address", "last_addr"),
    ("type kind ty", "region_type"),
    ("prot protection permissions perms perm readonly read_only is_readonly writable", "prot_flags"),
    ("flags mmap_flags map_flags shared is_shared", "perm_flags"),
    ("numa_node node numa_node_id host_node numa nid numa_id", "host_numa_node_id"),
    ("label id tag title", "name"),
    ("fd fileno file_descriptor file_object", "file"),
    ("path filename mem_path file_path", "mem_file_path"),
    ("offset fd_offset mmap_offset", "file_offset"),
    ("hugepage huge hugepages is_huge huge_pages hugetlb", "is_hugepage, or page_size"),
    ("pagesize align alignment", "page_size, or backing.alignment"),
    ("overlaps intersects intersection overlap intersect", "intersect_with(other)"),
    ("contains includes has", "`addr in region`"),
    ("read write memory data buffer view bytes_at", "the memory: space.memory.read(region.base, size)"),
    ("hva host_addr host_address ptr host userspace_addr", "space.memory.mapping(region.base).host_address"),
    ("source memory_type mem_source source_type memory_source", "mem_type"),
    ("copy clone with_name with_base update evolve _replace", "replace(**changes)"),
    ("options backing_options", "backing"),
    ("hotplug hotpluggable hotplugged", "is_hotplug"),
    ("anonymous is_anonymous is_anon", "is_anonpage"),
    ("mergeable ksm", "is_mergeable"),
    ("prealloc populate preallocated", "perm_flags, which has MapFlags.POPULATE"),
];

const RANGE: &[(&str, &str)] = &[
    ("start begin addr_start low first gpa start_addr guest_phys_addr phys_addr", "base"),
    ("length len nbytes memory_size", "size"),
];

const LAYOUT: &[(&str, &str)] = &[
    ("start base begin low ram_start", "mem_start"),
    ("end ram_end memory_end high", "mem_end"),
    ("phys_size size max_addr phys_bits address_bits", "phys_end"),
    ("mmio windows mmio_holes holes mmio_window mmio_ranges", "mmio_windows"),
    ("is_valid validate contains check", "is_region_valid(region), or check_region(region)"),
];

const OPTIONS: &[(&str, &str)] = &[
    ("hugepage_size huge_page_size pagesize hugepages hugetlb_size", "page_size"),
    ("align", "alignment"),
    ("thp hugepage is_hugepage huge transparent_huge_pages", "transparent_hugepage"),
    ("mergeable is_mergeable merge", "ksm"),
    ("dump nodump dont_dump", "dontdump"),
    ("lock locked mlocked", "mlock"),
    ("guard guards guard_page", "guard_pages"),
    ("numa_policy numa mempolicy nodes", "policy"),
    ("noreserve reserved", "reserve"),
    ("seal memfd_seals", "seals"),
    ("fork nofork dont_fork", "dontfork"),
    ("copy clone update _replace evolve", "replace(**changes)"),
    ("populate prealloc preallocate", "the region: create_default_memory_region(..., mem_prealloc=True)"),
];
