"""Text to a typed Stack: `from ic.compose import load` is the way in, for every command and as a library.

    stack = load(["compose.yaml"], os.environ)
    for service in stack.services.values():
        print(service.name, service.image.image, stack.where("services", service.name))

`load(files, env)` takes the paths of the files, or `Options` for everything else that a command line can say,
and the variables to fill in; the process environment is not looked at. It reads those files and what they
name (env files, `extends`, `include`, NAME.incus.yaml), nothing else; it opens no socket and prints nothing.
A `Stack` is frozen and in normal form: paths absolute, durations in milliseconds, sizes in bytes.
`stack.diagnostics` are warnings; `stack.where(...)` tells where something was written.

Raises `ic.errors.UsageError` where a named file cannot be read and `ic.errors.ComposeError` with every
mistake of the files in `diagnostics`, each with code, summary, position and hint (docs/diagnostics.md).
"""

from ic.compose.files import Options
from ic.compose.loader import load
from ic.compose.model import Service, Stack

__all__ = ["Options", "Service", "Stack", "load"]
