"""Followers against the same in C: a memfd that every follower maps and unmaps, with two questions for each."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import spaces
from dbs_address_space import AddressSpace, AddressSpaceRegion
from harness import MICROSECONDS, MILLISECONDS, Pace, Result, statement

MIB = 1 << 20
WINDOWS = 4096
FLOOR = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
enum { SIZE = 16 << 20 };

static void say(int sock, int fd) {
    char byte = 1, beside[CMSG_SPACE(sizeof fd)] = "";
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = beside, message.msg_controllen = sizeof beside;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    if (sendmsg(sock, &message, 0) != 1) exit(1);
}

static int hear(int sock) {
    char byte, beside[CMSG_SPACE(sizeof(int))];
    int fd = -1;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = beside, .msg_controllen = sizeof beside};
    if (recvmsg(sock, &message, MSG_CMSG_CLOEXEC) != 1) exit(0);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head) memcpy(&fd, CMSG_DATA(head), sizeof fd);
    return fd;
}

static void follow(int sock) {
    for (;;) {
        int fd = hear(sock);
        void *bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        for (int part = 0; part < 4; part++) {
            if (part == 3) munmap(bytes, SIZE), close(fd);
            say(sock, -1);
            if (part < 3) hear(sock);
        }
    }
}

int main(int count, char **arguments) {
    int followers = atoi(arguments[1]), socks[64][2];
    long loops = atol(arguments[2]);
    for (int i = 0; i < followers; i++) {
        socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks[i]);
        if (!fork()) {
            for (int j = 0; j <= i; j++) close(socks[j][0]);
            follow(socks[i][1]);
        }
        close(socks[i][1]);
    }
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long loop = 0; loop < loops; loop++) {
        int fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (ftruncate(fd, SIZE)) return 1;
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        void *bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        for (int part = 0; part < 4; part++) {
            for (int i = 0; i < followers; i++) say(socks[i][0], part ? -1 : fd);
            for (int i = 0; i < followers; i++) hear(socks[i][0]);
        }
        munmap(bytes, SIZE), close(fd);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.9f\n", end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) * 1e-9);
    return count != 3;
}
"""


def run(pace: Pace) -> Iterator[Result]:
    """The memory of a follower, its attachment, and what changes cost."""
    yield from received(pace)
    yield attached(pace)
    if shutil.which("cc"):
        yield from changes(pace)


@contextmanager
def followed(space: AddressSpace) -> Iterator[AddressSpace]:
    """A follower of a space in the same process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, space.share(ours):
        follower = AddressSpace.attach(theirs)
        yield follower
        follower.close()


def received(pace: Pace) -> Iterator[Result]:
    """The same verbs on a received memfd and on its owner's mapping."""
    space = AddressSpace.from_regions([spaces.ram(0, MIB)], spaces.LAYOUT)
    space.map_memory()
    with followed(space) as follower:
        for verb, text in (
            ("read_u64", "verb(0)"),
            ("load", "verb(0)"),
            ("fetch_add", "verb(0, 1)"),
            ("read", "verb(0, 65536)"),
        ):
            sides = (statement(text, verb=getattr(side.memory, verb)) for side in (follower, space))
            yield Result("followers", f"{verb} of a follower, against the owner", *pace.in_turns(*sides), goal=1.05)


def attached(pace: Pace) -> Result:
    """A follower of 4,096 windows on one memory, against a space of such regions; how they end is not measured."""
    space = AddressSpace.from_regions([spaces.ram(0, WINDOWS * spaces.PAGE)], spaces.LAYOUT)
    space.map_memory()
    with space.transaction() as change:
        for number in range(1, WINDOWS):
            change.split_region((number - 1) * spaces.PAGE, number * spaces.PAGE)
    with tempfile.TemporaryFile() as file:
        file.truncate(WINDOWS * spaces.PAGE)
        whole = AddressSpaceRegion.from_file(0, file)
        parts = [whole.replace(base=at, size=spaces.PAGE, file_offset=at) for at in range(0, whole.size, spaces.PAGE)]

        def attach(number: int) -> float:
            taken = 0.0
            for _ in range(number):
                begun = time.perf_counter()
                with followed(space):
                    taken += time.perf_counter() - begun
            return taken

        def make(number: int) -> float:
            taken = 0.0
            for _ in range(number):
                begun = time.perf_counter()
                memory = AddressSpace.from_regions(parts, spaces.LAYOUT).map_memory()
                taken += time.perf_counter() - begun
                memory.close()
            return taken

        samples = pace.in_turns(attach, make)
    name = f"attach, {WINDOWS:,} windows, against map_memory"
    return Result("followers", name, *samples, goal=1.5, unit=MILLISECONDS)


def changes(pace: Pace) -> Iterator[Result]:
    """A region of 16 MiB in and out, beside 1, 3 and 10 followers."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "floor"
        command = ["cc", "-O2", "-o", str(program), "-x", "c", "-"]
        subprocess.run(command, input=FLOOR.encode(), check=True)
        for count in (1, 3, 10):
            with led(count) as space:
                plug = statement(
                    "insert(region); remove(at)",
                    insert=space.insert_region,
                    remove=space.remove_region,
                    at=spaces.base(1),
                    region=AddressSpaceRegion("ram", spaces.base(1), 16 * MIB),
                )

                def floor(loops: int, count: int = count) -> float:
                    return float(subprocess.check_output([str(program), str(count), str(loops)]))

                ours, reference = pace.in_turns(plug, floor)
            name = f"insert and remove, {count} followers"
            yield Result("followers", name, ours, reference, goal=1.8, unit=MICROSECONDS)


@contextmanager
def led(count: int) -> Iterator[AddressSpace]:
    """A space with so many followers, each a process."""
    space = spaces.space_of(1)
    space.map_memory()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind("")
        listener.listen(count)
        share = stack.enter_context(space.share(listener))
        for _ in range(count):
            if os.fork() == 0:
                follow(listener.getsockname())
        while len(share.followers) < count:
            pass
        yield space
    for _ in range(count):
        os.wait()


def follow(address: bytes) -> None:
    """Follows to the end of the leader."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(address)
        follower = AddressSpace.attach(sock)
    # Idle as in C: one who waits for a change would wake for each.
    while follower.leader:
        time.sleep(0.05)
    os._exit(0)
