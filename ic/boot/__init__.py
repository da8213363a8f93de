"""How `ic.pyz` starts: code that runs before the application, and nowhere else.

`build_zipapp.py` puts `start` at the root of the zip as `__main__.py`, `cabundle` in the place of certifi and
`http2` in that of urllib3.http2; `finder` and `firstrun` stay where they are. Nothing else of ic imports this
package, and it imports nothing of ic but itself. `docs/architecture.md` has the order of a start.
"""
