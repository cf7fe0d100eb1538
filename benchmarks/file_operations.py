"""Watch what a process does to the files below a folder, one operation at a time."""

import _pyio
import builtins
import io
import os
import sys


def watch(folder, before):
    """Call a function before each operation that changes something below a folder.

    Those are open (to write), write, write the rest of, truncate, fsync, mkdir, rmdir,
    remove, rename, link and symlink; in this process, from now on, by Python code. A
    write is made in two halves. What fails counts, too: the removal of no file.

    Args:
        folder: without symbolic links.
        before: is given the operation's name, and the path: the new one of two.
    """
    plain_open, plain_fsync = open, os.fsync

    def below(path, at=-1):
        """Return a path, "" where it is not below the folder.

        Args:
            path: or a descriptor.
            at: descriptor of the folder that the path begins at; -1 is the current one.
        """
        if isinstance(path, int):
            path = f"/proc/self/fd/{path}"
        elif at != -1:
            path = f"/proc/self/fd/{at}/{path}"
        path = os.path.realpath(os.fsdecode(path))
        return path if f"{path}/".startswith(f"{folder}/") else ""

    def operation(name, path, at=-1):
        if path := below(path, at):
            before(name, path)

    def hook(event, arguments):
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            operation("open", arguments[0])
        elif event in ("os.mkdir", "os.rmdir", "os.remove"):
            operation(event[3:], arguments[0], arguments[-1])
        elif event in ("os.rename", "os.link", "os.symlink"):
            operation(event[3:], arguments[1], arguments[-1])

    class File(io.FileIO):  # Python tells no hook of its writes
        def write(self, data):
            operation("write", self.name)
            data = memoryview(data).cast("B")
            half = super().write(data[: len(data) // 2])
            operation("write the rest of", self.name)
            return half + super().write(data[half:])

        def truncate(self, size=None):
            operation("truncate", self.name)
            return super().truncate(size)

    def watched_open(file, mode="r", *args, **kwargs):
        watched = set(mode) & set("wax+") and below(file)
        return (_pyio.open if watched else plain_open)(file, mode, *args, **kwargs)

    def watched_fsync(descriptor):
        operation("fsync", descriptor)
        plain_fsync(descriptor)

    _pyio.FileIO = File  # what the `open` that is written in Python makes
    builtins.open = io.open = watched_open
    os.fsync = watched_fsync
    sys.addaudithook(hook)
