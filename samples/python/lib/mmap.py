"""Files as memory, which WASI cannot map: for reading a copy is taken; writing through to the file is refused."""

import errno
import os

ACCESS_DEFAULT, ACCESS_READ, ACCESS_WRITE, ACCESS_COPY = range(4)
MAP_SHARED, MAP_PRIVATE, MAP_ANON = 1, 2, 32
MAP_ANONYMOUS = MAP_ANON
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
PAGESIZE = ALLOCATIONGRANULARITY = 65536
error = OSError


class mmap:
    def __init__(self, fileno, length, flags=MAP_SHARED, prot=PROT_READ | PROT_WRITE, access=ACCESS_DEFAULT, offset=0):
        self._at, self._readonly = 0, access == ACCESS_READ or (access == ACCESS_DEFAULT and not prot & PROT_WRITE)
        if fileno == -1:
            self._bytes = bytearray(length)
            return
        is_private = access == ACCESS_COPY or (access == ACCESS_DEFAULT and flags & MAP_PRIVATE)
        if not (self._readonly or is_private):
            raise OSError(errno.ENOTSUP, "a file cannot be mapped for writing: WASI has no shared mappings")
        rest = os.fstat(fileno).st_size - offset
        if rest < length or rest <= 0:
            raise ValueError("cannot mmap an empty file" if rest <= 0 else "mmap length is greater than file size")
        length, content = length or rest, bytearray()
        while len(content) < length and (part := os.pread(fileno, length - len(content), offset + len(content))):
            content += part
        self._bytes = content

    def __buffer__(self, flags):
        view = memoryview(self._open())
        return view.toreadonly() if self._readonly else view

    def _open(self):
        if self._bytes is None:
            raise ValueError("mmap closed or invalid")
        return self._bytes

    def __len__(self):
        return len(self._open())

    def __getitem__(self, index):
        part = self._open()[index]
        return part if isinstance(index, int) else bytes(part)

    def __setitem__(self, index, value):
        if self._readonly:
            raise TypeError("mmap can't modify a readonly memory map.")
        part = memoryview(self._open())
        part[index] = value

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._bytes = None

    @property
    def closed(self):
        return self._bytes is None

    def size(self):
        return len(self)

    def tell(self):
        return self._at

    def seek(self, position, whence=os.SEEK_SET):
        at = position + (0, self._at, len(self))[whence]
        if not 0 <= at <= len(self):
            raise ValueError("seek out of range")
        self._at = at
        return at

    def read(self, count=None):
        end = len(self) if count is None or count < 0 else min(len(self), self._at + count)
        part, self._at = bytes(self._bytes[self._at : end]), end
        return part

    def read_byte(self):
        if self._at >= len(self):
            raise ValueError("read byte out of range")
        return self.read(1)[0]

    def readline(self):
        end = self._open().find(b"\n", self._at)
        return self.read(None if end < 0 else end + 1 - self._at)

    def write(self, content):
        content = bytes(content)
        if len(content) > len(self) - self._at:
            raise ValueError("data out of range")
        self[self._at : self._at + len(content)] = content
        self._at += len(content)
        return len(content)

    def find(self, sub, start=None, end=None):
        return self._open().find(sub, self._at if start is None else start, len(self) if end is None else end)

    def rfind(self, sub, start=None, end=None):
        return self._open().rfind(sub, self._at if start is None else start, len(self) if end is None else end)

    def flush(self, offset=0, size=0):
        pass

    def madvise(self, option, start=0, length=0):
        pass
