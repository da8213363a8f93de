"""Desired state: what is merged, what is selected, what is planned, and every problem at once."""

from __future__ import annotations

import pytest

from ic import errors, names
from ic.fields import section
from ic.plan import claims, desired
from tests.plan import world


def built(text: str, here: world.World | None = None, **given: object) -> desired.Desired:
    stack = world.load(text, "/srv/shop")
    here = world.with_images(here or world.World(), stack)
    return desired.build(stack, here.recorded, here.observed, world.options(**given))


def test_two_sections_that_write_one_key_are_refused() -> None:
    one = section.Contribution(fields={("config", "oci.cwd"): "/"})
    with pytest.raises(errors.PlanError, match=r"two of them write config\.oci\.cwd"):
        section.merged((one, one))
    line = section.Contribution(lxc=(("lxc.signal.halt", "SIGTERM"),))
    with pytest.raises(errors.PlanError, match=r"write lxc\.signal\.halt of raw\.lxc"):
        section.merged((line, line))


def test_lines_of_several_sections_share_raw_lxc_in_a_fixed_order() -> None:
    one = section.Contribution(lxc=(("lxc.uts.name", "x"), ("lxc.environment", "B=")))
    other = section.Contribution(lxc=(("lxc.environment", "A="),))
    found = section.merged((one, other))["config", "raw.lxc"]
    assert found == "lxc.environment=A=\nlxc.environment=B=\nlxc.uts.name=x"


def test_all_problems_are_told_at_once_with_their_places() -> None:
    with pytest.raises(errors.PlanError) as caught:
        built(
            """
name: shop
services:
  my_db: {image: nginx}
  my-db: {image: nginx}
  web: {image: nginx, volumes: ["old:/old"]}
volumes: {old: {external: true}}
"""
        )
    found = caught.value.diagnostics
    assert caught.value.summary == "cannot plan stack 'shop': 2 problems"
    assert [str(one.position) for one in found] == ["<stdin>:4:3", "<stdin>:7:11"]
    assert all(one.severity == "error" for one in found)


def test_a_dependency_is_selected_with_what_needs_it() -> None:
    found = built(
        """
name: shop
services:
  a: {image: nginx, depends_on: [b]}
  b: {image: nginx, depends_on: [c]}
  c: {image: nginx}
  d: {image: nginx}
""",
        services=("a",),
    )
    assert {details.service for details in found.details.values()} == {"a", "b", "c"}
    assert found.kept == {"d"}


def test_an_inactive_service_keeps_its_networks_and_volumes_known() -> None:
    found = built(
        """
name: shop
services:
  web: {image: nginx}
  debug: {image: busybox, profiles: [debug], networks: [dbg], volumes: ["dump:/dump"]}
networks: {dbg: {}}
volumes: {dump: {}}
"""
    )
    assert {"network:dbg", "volume:dump", "image:busybox"} <= found.known
    assert "network:dbg" not in found.resources
    assert found.kept == {"debug"}


def test_the_pool_of_a_volume_stays_when_the_default_moves() -> None:
    text = (
        'name: shop\nservices: {db: {image: busybox, volumes: ["data:/data"]}}\nvolumes: {data: {}}'
    )
    stack = world.load(text, "/srv/shop")
    here = world.with_images(world.World(), stack)
    here = world.apply(here, world.plan(stack, here, world.options()))
    moved = world.World(
        recorded=here.recorded,
        live=here.live,
        facts=world.World(facts=here.facts).facts.__class__(
            server="lab", default_pool="fast", project_exists=True, project_marked=True
        ),
    )
    found = built(text, moved)
    assert found.resources["volume:data"].pool == world.POOL
    assert found.resources["instance:db/1"].fields["devices", "root", "pool"] == world.POOL


def test_a_name_that_no_server_can_answer_for_is_refused() -> None:
    with pytest.raises(errors.PlanError, match="not a host name"):
        built(
            """
name: shop
services:
  web: {image: nginx, networks: {default: {aliases: ["a b"]}}}
"""
        )


def test_labels_without_a_value_are_warned_of_once_each() -> None:
    found = built(
        """
name: shop
services:
  web: {image: nginx, scale: 2, labels: [bare, "full=1"], volumes: ["data:/data"]}
networks: {default: {labels: [bare]}}
volumes: {data: {labels: [bare]}}
"""
    )
    assert [one.summary for one in found.diagnostics] == [
        "network 'default': labels without a value are not kept: bare",
        "volume 'data': labels without a value are not kept: bare",
        "service 'web': labels without a value are not kept: bare",
    ]
    assert ("config", "user.label.bare") not in found.resources["instance:web/1"].fields


def test_down_needs_no_file() -> None:
    found = desired.nothing("my_shop")
    assert (found.stack, found.project, found.resources) == ("my_shop", "my-shop", {})


def test_proxies_are_read_from_fields() -> None:
    fields = {
        ("devices", "a", "listen"): "tcp:0.0.0.0:80",
        ("devices", "b", "listen"): "udp:[::1]:53",
        ("devices", "c", "listen"): "unix:/run/x",
        ("config", "listen"): "tcp:0.0.0.0:81",
    }
    assert claims.proxies(fields) == [("tcp", "0.0.0.0", 80), ("udp", "::1", 53)]


def test_what_an_action_without_a_check_means_is_said() -> None:
    text = "name: shop\nservices: {db: {image: nginx, x-ic: {on_unhealthy: stop}}}"
    found = built(text)
    assert [one.code for one in found.diagnostics] == ["W_NO_HEALTHCHECK"]
    assert found.resources["instance:db/1"].fields["config", names.HEALTH_ON_UNHEALTHY] == "stop"
    checked = text.replace("nginx,", "nginx, healthcheck: {test: x},")
    assert built(checked).diagnostics == ()


def test_health_is_not_waited_for_where_there_is_no_check() -> None:
    text = (
        "name: shop\nservices: {db: {image: nginx}, "
        "web: {image: nginx, depends_on: {db: {condition: service_healthy}}}}"
    )
    with pytest.raises(errors.PlanError) as caught:
        built(text)
    assert "waits for 'db' to be healthy, which has no health check" in caught.value.summary
    built(text.replace("db: {image: nginx}", "db: {image: checked}"))
