"""The guest: the program in its firmware.

The program waits with `hlt`. Each time Python lets it go on, it takes an address and a count from
the mailbox, replaces the numbers there by their running totals, and leaves the last total in the mailbox.
"""

CONSOLE_PORT = 0x3F8
MAILBOX = 0xD000_0000

MAILBOX_ADDRESS = 0
MAILBOX_COUNT = 8
MAILBOX_TOTAL = 16

HELLO = b"firmware: in long mode, waiting for work\n\0"
DONE = b"firmware: running totals written\n\0"

_CODE = (
    b"\xbb" + MAILBOX.to_bytes(4, "little"),  # 00        mov   ebx, MAILBOX
    b"\x48\x8d\x35\x3e\x00\x00\x00",          # 05        lea   rsi, [rip + hello]
    b"\xe8\x2b\x00\x00\x00",                  # 0c        call  print
    b"\xf4",                                  # 11  next: hlt
    b"\x48\x8b\x3b",                          # 12        mov   rdi, [rbx + MAILBOX_ADDRESS]
    b"\x48\x8b\x4b\x08",                      # 15        mov   rcx, [rbx + MAILBOX_COUNT]
    b"\x31\xc0",                              # 19        xor   eax, eax
    b"\x48\x03\x07",                          # 1b  sum:  add   rax, [rdi]
    b"\x48\x89\x07",                          # 1e        mov   [rdi], rax
    b"\x48\x83\xc7\x08",                      # 21        add   rdi, 8
    b"\x48\xff\xc9",                          # 25        dec   rcx
    b"\x75\xf1",                              # 28        jnz   sum
    b"\x48\x89\x43\x10",                      # 2a        mov   [rbx + MAILBOX_TOTAL], rax
    b"\x48\x8d\x35" + (0x15 + len(HELLO)).to_bytes(4, "little"),  # 2e  lea  rsi, [rip + done]
    b"\xe8\x02\x00\x00\x00",                  # 35        call  print
    b"\xeb\xd5",                              # 3a        jmp   next
    b"\xba" + CONSOLE_PORT.to_bytes(4, "little"),  # 3c print: mov edx, CONSOLE_PORT
    b"\xac",                                  # 41  char: lodsb
    b"\x84\xc0",                              # 42        test  al, al
    b"\x74\x03",                              # 44        jz    back
    b"\xee",                                  # 46        out   dx, al
    b"\xeb\xf8",                              # 47        jmp   char
    b"\xc3",                                  # 49  back: ret
)  # fmt: skip

PROGRAM = b"".join(_CODE) + HELLO + DONE
