"""The application of the zipapps that the boot tests build: it only tells how it was started.

Goes into the zip as `ic/cli/main.py`. Prints one JSON object. Takes a list of modules to import first;
`interrupt` among them is a Ctrl-C at that moment.
"""

import sys


def main(argv: list[str] | None = None) -> int:
    """Imports the modules named in `argv`, then says what is loaded and from where."""
    loaded = sorted(sys.modules)
    files: dict[str, str | None] = {}
    for name in argv or []:
        if name == "interrupt":
            raise KeyboardInterrupt
        __import__(name)
        files[name] = getattr(sys.modules[name], "__file__", None)

    import json

    from ic import buildinfo

    finder = sys.meta_path[0]
    told = {
        "build": buildinfo.build_id(),
        "files": files,
        "finder": type(finder).__name__,
        "loaded": loaded,
        "native": getattr(finder, "native", None),
        "path": sys.path,
        "python": list(sys.version_info[:3]),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    return 0
