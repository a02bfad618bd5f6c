"""A selector router in EVM code, in place of the one the protocol's build tool generates.

A call goes by its selector to one of the modules with DELEGATECALL, and what it answers is passed
on. All state of the modules sits in hashed slots, so the order of modules does not matter.
"""

from collections.abc import Mapping

_ENTRY_BYTES = 11  # DUP1 PUSH4 EQ PUSH2 JUMPI
_MODULE_BYTES = 27  # JUMPDEST POP PUSH20 PUSH2 JUMP
_CREATION_BYTES = 16
_ZERO = b"\x60\x00"


def _push(number: int, size: int) -> bytes:
    return bytes([0x5F + size]) + number.to_bytes(size, "big")


def _tail(start: int) -> bytes:
    """Delegate with the module's address on the stack; return or revert with its answer."""
    code = b"\x5b\x36" + _ZERO + _ZERO + b"\x37"  # calldatacopy(0, 0, calldatasize)
    code += _ZERO + _ZERO + b"\x36" + _ZERO + b"\x84\x5a\xf4"  # delegatecall(gas, module, …)
    code += b"\x3d" + _ZERO + _ZERO + b"\x3e"  # returndatacopy(0, 0, returndatasize)
    succeeded = start + len(code) + 3 + 1 + 1 + 2 + 1
    revert, passed_on = b"\x3d" + _ZERO + b"\xfd", b"\x5b\x3d" + _ZERO + b"\xf3"
    return code + _push(succeeded, 2) + b"\x57" + revert + passed_on


def creation_code(table: Mapping[bytes, str]) -> str:
    """Return creation code (0x-hex) of a router: selector to address of its module (0x-hex)."""
    entries = sorted((key, bytes.fromhex(to.removeprefix("0x"))) for key, to in table.items())
    modules = sorted({module for _, module in entries})
    head = _ZERO + b"\x35" + _push(0xE0, 1) + b"\x1c"  # the selector: calldata[0:4]
    unknown = _ZERO + _ZERO + b"\xfd"
    first_module = len(head) + _ENTRY_BYTES * len(entries) + len(unknown)
    common = first_module + _MODULE_BYTES * len(modules)
    places = {module: first_module + i * _MODULE_BYTES for i, module in enumerate(modules)}
    code = bytearray(head)
    for key, module in entries:
        code += b"\x80\x63" + key + b"\x14" + _push(places[module], 2) + b"\x57"
    code += unknown
    for module in modules:
        code += b"\x5b\x50\x73" + module + _push(common, 2) + b"\x56"
    code += _tail(common)
    size = _push(len(code), 3)
    creation = size + _push(_CREATION_BYTES, 1) + _ZERO + b"\x39" + size + _ZERO + b"\xf3"
    return "0x" + (creation + bytes(code)).hex()
