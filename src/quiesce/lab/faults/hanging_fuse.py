"""A FUSE file system in a guest without any FUSE library, which can be made to hang."""

HANGING_FUSE = r'''
"""python3 THIS [FILE]: mounts /mnt/fuse, whose only file `file` is FILE. It answers until /run/hang
exists; without FILE it answers nothing but the kernel's first question."""
import ctypes, os, struct, sys
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS = 1, 2, 3, 4, 14, 15, 16, 17
RELEASE, FSYNC, FLUSH, INIT, OPENDIR, BATCH_FORGET = 18, 20, 25, 26, 27, 42
backing = os.open(sys.argv[1], os.O_RDWR) if len(sys.argv) > 1 else -1
device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % device
if libc.mount(b"hanging", b"/mnt/fuse", b"fuse.hanging", 0, options):
    raise OSError(ctypes.get_errno(), "mount")
def attr(node):
    size = os.fstat(backing).st_size if node == 2 else 4096
    mode = 0o100600 if node == 2 else 0o40755
    sizes = struct.pack("<QQQ36x", node, size, size // 512)
    return sizes + struct.pack("<IIIIIII", mode, 1, 0, 0, 0, 4096, 0)
def answer(unique, body=b"", error=0):
    os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
while True:
    request = os.read(device, 1 << 20)
    length, code, unique, node = struct.unpack_from("<IIQQ", request)
    body = request[40:]
    if code == INIT:
        major, minor, ahead, flags = struct.unpack_from("<IIII", body)
        answer(unique, struct.pack("<IIIIHHIIHHI28x", 7, 31, ahead, 0, 12, 10, 131072, 1, 0, 0, 0))
    elif code in (FORGET, BATCH_FORGET):
        pass
    elif backing < 0 or os.path.exists("/run/hang"):
        pass
    elif code == LOOKUP:
        if body.rstrip(b"\0") == b"file":
            answer(unique, struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + attr(2))
        else:
            answer(unique, error=-2)
    elif code in (GETATTR, SETATTR):
        answer(unique, struct.pack("<QII", 3600, 0, 0) + attr(node))
    elif code in (OPEN, OPENDIR):
        answer(unique, struct.pack("<QII", 1, 0, 0))
    elif code == READ:
        handle, offset, size = struct.unpack_from("<QQI", body)
        answer(unique, os.pread(backing, size, offset))
    elif code == WRITE:
        handle, offset, size = struct.unpack_from("<QQI", body)
        answer(unique, struct.pack("<II", os.pwrite(backing, body[40 : 40 + size], offset), 0))
    elif code == STATFS:
        blocks = (1 << 16, 1 << 15, 1 << 15)
        answer(unique, struct.pack("<QQQQQIIII24x", *blocks, 16, 8, 4096, 255, 4096, 0))
    elif code in (FLUSH, RELEASE, FSYNC):
        answer(unique)
    else:
        answer(unique, error=-38)
'''
"""Run by root in a guest. Layouts: the kernel's include/uapi/linux/fuse.h, protocol 7.31."""
