"""A process that dies just before or just after its n-th change of the file system."""

import builtins
import io
import os

CRASH_EXIT = 137


class CrashPoints:
    """Counts changes of the file system and ends the process at one of them."""

    def __init__(self, crash_at):
        self.crash_at = crash_at
        self.count = 0

    def point(self):
        self.count += 1
        if self.count == self.crash_at:
            os._exit(CRASH_EXIT)

    def around(self, function):
        def wrapped(*args, **kwargs):
            self.point()
            result = function(*args, **kwargs)
            self.point()
            return result

        return wrapped

    def install(self):
        """Only in a child process: nothing is undone."""
        for name in ("rename", "replace", "fsync", "mkdir", "link", "unlink", "rmdir"):
            setattr(os, name, self.around(getattr(os, name)))
        real_open = io.open

        def opening(file, mode="r", *args, **kwargs):
            if any(letter in mode for letter in "wax+"):
                return self.around(real_open)(file, mode, *args, **kwargs)
            return real_open(file, mode, *args, **kwargs)

        builtins.open = opening
        io.open = opening


def in_child(work, crash_at):
    """Run `work()` in a forked child that dies at a point, 0 for none. Returns (exit status, points passed)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        points = CrashPoints(crash_at)
        points.install()
        work()
        os.write(writer, str(points.count).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        return os.waitstatus_to_exitcode(status), int(answer.read() or 0)
