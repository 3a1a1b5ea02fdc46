"""leaks.py: finds striate's leaks from a report and a process's memory map."""

from __future__ import annotations

import leaks

MAPS = """\
7f0000001000-7f0000002000 r--p 00000000 00:2a 11                         /a checkout/build/asan/_core.so
7f0000002000-7f0000009000 r-xp 00001000 00:2a 11                         /a checkout/build/asan/_core.so
7f0000009000-7f000000a000 rw-p 00000000 00:00 0
7f0000100000-7f0000200000 r-xp 00000000 00:2a 12                         /torch/lib/libtorch_cpu.so
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
"""
# as GCC 12 writes it; shortened
REPORT = """
=================================================================
==7==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 208 byte(s) in 1 object(s) allocated from:
    #0 0x7f0000300001 in __interceptor_malloc ../libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x7f0000400002 in gc_alloc Modules/gcmodule.c:2283

Direct leak of 40 byte(s) in 5 object(s) allocated from:
    #0 0x7f0000300002 in operator new(unsigned long) ../libsanitizer/asan/asan_new_delete.cpp:95
    #1 0x7f0000100003 in aoti_torch_empty_strided (/torch/lib/libtorch_cpu.so+0x3)
    #2 0x7f0000002004 in new_tensor /a checkout/csrc/bindings.cpp:89

Indirect leak of 1200 byte(s) in 5 object(s) allocated from:
    #0 0x7f0000300003 in __interceptor_posix_memalign ../libsanitizer/asan/asan_malloc_linux.cpp:145
    #1 0x7f0000100005 in c10::alloc_cpu(unsigned long) (/torch/lib/libc10.so+0x5)
    #2 0x7ffc0000265f  ([stack]+0x265f)

SUMMARY: AddressSanitizer: 1448 byte(s) leaked in 11 allocation(s).
"""


def test_a_leak_is_the_cores_where_its_stack_passes_through_it() -> None:
    found, addresses = leaks.leaks_of(REPORT), leaks.addresses_of("/a checkout/build/asan/_core.so", MAPS)
    assert [leaks.bytes_of(leak) for leak in found] == [208, 40, 1200]
    assert [leaks.passes_through(leak, addresses) for leak in found] == [False, True, False]
    assert addresses == [range(0x7F0000001000, 0x7F0000002000), range(0x7F0000002000, 0x7F0000009000)]


def test_without_the_core_and_without_leaks_there_is_nothing() -> None:
    assert leaks.addresses_of("/elsewhere/_core.so", MAPS) == [] and leaks.leaks_of("") == []
    assert not any(leaks.passes_through(leak, []) for leak in leaks.leaks_of(REPORT))
