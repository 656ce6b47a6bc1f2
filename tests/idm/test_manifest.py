"""The manifest: what is accepted, and the one line that says what is wrong with the rest."""

import hashlib
import tomllib
from pathlib import Path

import pytest

from dma.capture.plans import AUTO, PLANS
from idm.manifest import Capture, Judge, ManifestError, Mode, ProbePlan, Rollback, fingerprint, load

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "stack.toml"

GOOD = """
[stack]
name = "shop"

[network]
subnet = "198.18.10.0/24"

[network.hosts]
"payments.example" = "198.18.20.5"

[vcd.web]
image = "localhost/web"
after = ["db", "api"]

[vcd.api]
image = "localhost/api"
address = "198.18.10.2"
environment = { DB = "db:5432" }
capabilities = ["NET_ADMIN"]
after = ["db"]

[vcd.db]
image = "localhost/db"
command = ["/usr/bin/postgres"]

[judge]
confirm_s = 2

[rollback]
mode = "approve"

[smoke]
vcd = "web"
command = ["/bin/smoke"]
"""

# What in GOOD becomes what, and the message that this brings, after the file's name.
BAD = [
    ('name = "shop"', "name = shop", "line 3, column 8: invalid value: correct the TOML there"),
    ('[stack]\nname = "shop"', "stack = 3", "stack: expected a table, got 3: write [stack] above its keys"),
    ('[stack]\nname = "shop"', "", "stack: missing: write a table"),
    ('name = "shop"', 'nam = "shop"', 'stack.nam: no such key: did you mean "name"?'),
    ('name = "shop"', "", "stack.name: missing: write a string in quotes"),
    ('name = "shop"', "name = 7", "stack.name: expected a string in quotes, got 7"),
    (
        'name = "shop"',
        'name = "Shop!"',
        'stack.name: "Shop!" is no host name: use up to 63 of a-z, 0-9 and - (not at the ends)',
    ),
    (
        'name = "shop"',
        'name = "shop"\ndriver = "docker"',
        'stack.driver: "docker" is no driver: choose from podman, libvirt',
    ),
    ("[judge]", "[jugde]", 'jugde: no such key: did you mean "judge"?'),
    (
        "[judge]",
        "[teardown]",
        "teardown: no such key: known here are agent, capture, judge, manager, naming, network, rollback, smoke, "
        "stack, vcd",
    ),
    ('image = "localhost/web"', 'imge = "localhost/web"', 'vcd.web.imge: no such key: did you mean "image"?'),
    ('image = "localhost/web"', "", "vcd.web.image: missing: write a string in quotes, not empty"),
    ('image = "localhost/web"', "image = 3", "vcd.web.image: expected a string in quotes, got 3"),
    (
        'image = "localhost/web"',
        'image = ""',
        "vcd.web.image: missing: write a string in quotes, not empty",
    ),
    (
        'image = "localhost/web"',
        'image = "localhost/web"\nname = "web"',
        "vcd.web.name: the table's key is the name: leave this out",
    ),
    (
        '["/usr/bin/postgres"]',
        '"/usr/bin/postgres"',
        'vcd.db.command: expected a list whose items are each a string in quotes, got "/usr/bin/postgres"',
    ),
    ('["db", "api"]', '["db", "apy"]', 'vcd.web.after: there is no VCD "apy": choose from api, db, web'),
    ('after = ["db"]', 'after = ["api"]', "vcd.api.after: a cycle, api after api: take one of these out"),
    (
        'after = ["db"]',
        'after = ["web"]',
        "vcd.web.after: a cycle, web after api after web: take one of these out",
    ),
    (
        '{ DB = "db:5432" }',
        '{ "D B" = "" }',
        "vcd.api.environment.D B: not a variable's name: use letters, digits and underscores",
    ),
    (
        '["NET_ADMIN"]',
        '["net_admin"]',
        'vcd.api.capabilities: expected a list whose items are each a name such as "NET_ADMIN", got ["net_admin"]',
    ),
    (
        'address = "198.18.10.2"',
        'address = "198.18.10"',
        'vcd.api.address: "198.18.10" is no address: write, for example, "198.18.10.11"',
    ),
    (
        'address = "198.18.10.2"',
        'address = "198.18.11.2"',
        "vcd.api.address: 198.18.11.2 is no host of 198.18.10.0/24: choose from 198.18.10.2 on",
    ),
    (
        'address = "198.18.10.2"',
        'address = "198.18.10.1"',
        "vcd.api.address: 198.18.10.1 is taken by the network's gateway: choose another or leave it out",
    ),
    (
        'image = "localhost/db"',
        'image = "localhost/db"\naddress = "198.18.10.2"',
        "vcd.db.address: 198.18.10.2 is taken by vcd.api: choose another or leave it out",
    ),
    (
        '"198.18.10.0/24"',
        '"198.18.10.1/24"',
        'network.subnet: 198.18.10.1/24 has host bits set: write, for example, "198.18.10.0/24"',
    ),
    (
        '"198.18.10.0/24"',
        '"198.18.10.0/30"',
        'network.subnet: 198.18.10.0/30 is not IPv4 or smaller than /29: write, for example, "198.18.10.0/24"',
    ),
    (
        '"payments.example"',
        '"pay_ments"',
        'network.hosts.pay_ments: "pay_ments" is no host name: use a-z, 0-9 and -, with dots between the parts',
    ),
    (
        '"payments.example"',
        '"db"',
        "network.hosts.db: a VCD has this name: leave it out, the VCDs' own names are known",
    ),
    (
        '"198.18.20.5"',
        '"payments"',
        'network.hosts.payments.example: "payments" is no address: write, for example, "198.18.10.11"',
    ),
    (
        "confirm_s = 2",
        "vcd_threshold = 20",
        "judge.vcd_threshold: expected a share from 0 to 1, got 20",
    ),
    (
        "confirm_s = 2",
        "stack_threshold = nan",
        "judge.stack_threshold: expected a share from 0 to 1, got NaN",
    ),
    (
        "[judge]",
        "[capture]\nquiet_s = 60\n[judge]",
        "capture.within_s: less than capture.quiet_s: make it longer",
    ),
    (
        "confirm_s = 2",
        "patience_s = 0",
        "judge.patience_s: expected seconds, above 0 and at most 86400, got 0",
    ),
    (
        "confirm_s = 2",
        "confirm_s = 0",
        "judge.confirm_s: expected seconds, above 0 and at most 86400, got 0",
    ),
    (
        "[judge]",
        "[agent]\ninterval_ms = -1\n[judge]",
        "agent.interval_ms: expected milliseconds, from 100 to 2000, got -1",
    ),
    (
        "[judge]",
        '[agent]\nplan = "ebpf"\n[judge]',
        'agent.plan: expected one of "auto", "fentry", "kprobe", "cgroup", "netlink", got "ebpf"',
    ),
    (
        '"approve"',
        '"automatic"',
        'rollback.mode: expected one of "observe", "approve", "auto", got "automatic"',
    ),
    ('vcd = "web"', 'vcd = "www"', 'smoke.vcd: there is no VCD "www": choose from api, db, web'),
    (
        'command = ["/bin/smoke"]',
        "command = []",
        'smoke.command: expected a list such as ["/bin/check", "--all"], got []',
    ),
]


def written(directory: Path, text: str) -> Path:
    """A manifest's file."""
    path = directory / "stack.toml"
    path.write_text(text)
    return path


def test_defaults_and_values(tmp_path: Path) -> None:
    """Values are taken from the file and the rest from the defaults."""
    manifest = load(written(tmp_path, GOOD))
    assert manifest.stack.driver == "podman"
    assert manifest.judge.confirm_s == 2
    assert manifest.judge.stack_threshold == 0.2
    assert manifest.rollback.mode is Mode.APPROVE
    assert manifest.vcd["api"].environment == {"DB": "db:5432"}
    assert manifest.vcd["web"].name == "web"


def test_vcds_stand_in_the_order_of_their_start(tmp_path: Path) -> None:
    """A VCD comes behind all that it starts after."""
    assert list(load(written(tmp_path, GOOD)).vcd) == ["db", "api", "web"]


def test_addresses_are_assigned_around_those_given(tmp_path: Path) -> None:
    """VCDs without an address get the lowest free ones, in the file's order, past the gateway."""
    addresses = {name: vcd.address for name, vcd in load(written(tmp_path, GOOD)).vcd.items()}
    assert addresses == {"web": "198.18.10.3", "api": "198.18.10.2", "db": "198.18.10.4"}


def test_a_subnet_too_small_is_refused(tmp_path: Path) -> None:
    """More VCDs than the subnet has addresses are an error, not a crash."""
    more = "".join(f'[vcd.x{i}]\nimage = "x"\n' for i in range(3))
    with pytest.raises(
        ManifestError, match=r"198.18.10.0/29 is too small for 6 VCDs: choose a shorter prefix$"
    ):
        load(written(tmp_path, GOOD.replace("0/24", "0/29") + more))


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input_is_told_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Every mistake brings its one line with file, place and what to write."""
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ManifestError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {message}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and one in another encoding are told as such."""
    with pytest.raises(
        ManifestError, match=r"stack.toml: cannot be read, No such file or directory: check the path$"
    ):
        load(tmp_path / "stack.toml")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[stack]\nname = "caf\xe9"\n')
    with pytest.raises(ManifestError, match=r"latin.toml: not UTF-8 at byte 19: save it as UTF-8 text$"):
        load(latin)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"198.18.10.2"', '"198.18.10.77"'),
        ("198.18.20.5", "198.18.20.6"),
        ("confirm_s = 2", "confirm_s = 9"),
        ('mode = "approve"', 'mode = "observe"'),
        ('["db", "api"]', '["api", "db"]'),
        ('"/bin/smoke"', '"/bin/smoke", "-v"'),
    ],
)
def test_fingerprint_ignores_judgement_and_addresses(tmp_path: Path, old: str, new: str) -> None:
    """Another threshold, mode, workload or address makes no other stack."""
    before = fingerprint(load(written(tmp_path, GOOD)))
    assert fingerprint(load(written(tmp_path, GOOD.replace(old, new)))) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"localhost/db"', '"localhost/db:2"'),
        ("db:5432", "db:5433"),
        ("[vcd.web]", '[vcd.mail]\nimage = "m"\n[vcd.web]'),
        ("payments.example", "payments.test"),
        ('after = ["db"]', ""),
    ],
)
def test_fingerprint_follows_the_definition(tmp_path: Path, old: str, new: str) -> None:
    """Another image, environment, VCD, host or order makes another stack."""
    before = fingerprint(load(written(tmp_path, GOOD)))
    assert fingerprint(load(written(tmp_path, GOOD.replace(old, new)))) != before


def test_the_sample_stack_is_valid() -> None:
    """The manifest of the sample stack loads."""
    assert load(SHOP).stack.name == "shop"


def test_fingerprint_leaves_out_what_is_not_said(tmp_path: Path) -> None:
    """A version that knows more settings finds the same digest, so that golden images outlive an upgrade."""
    said = '[stack]\nname = "s"\n[network]\nsubnet = "198.18.10.0/24"\n[vcd.a]\nimage = "i"\n'
    canonical = b'{"hosts":[],"stack":{"name":"s"},"vcd":{"a":{"name":"a","image":"i"}}}'
    assert fingerprint(load(written(tmp_path, said))) == hashlib.sha256(canonical).hexdigest()


def test_containers_are_no_machines(tmp_path: Path) -> None:
    """The keys of VMs are refused where containers are described."""
    with_domain = GOOD.replace('image = "localhost/web"', 'image = "localhost/web"\ndomain = "x"', 1)
    with pytest.raises(ManifestError, match=r"vcd.web.domain: a container has none: leave this out$"):
        load(written(tmp_path, with_domain))
    seated = GOOD.replace("[judge]", '[manager]\nvcd = "web"\n[judge]', 1)
    with pytest.raises(ManifestError, match=r"manager.vcd: the manager of containers is on this host: leave"):
        load(written(tmp_path, seated))
    with_bridge = GOOD.replace("[network]", '[network]\nbridge = "br0"', 1)
    with pytest.raises(ManifestError, match=r"network.bridge: containers have a network of their own: leave"):
        load(written(tmp_path, with_bridge))


def test_a_manifest_names_every_plan_of_the_agent() -> None:
    """What a manifest may ask for is what an agent can do."""
    assert [plan.value for plan in ProbePlan] == [AUTO, *PLANS]


def test_the_readme_shows_every_knob_with_its_default(tmp_path: Path) -> None:
    """What is written there changes nothing, and leaves no setting out."""
    readme = (SHOP.parents[2] / "README.md").read_text()
    shown = readme.partition("<!-- knobs -->\n```toml\n")[2].partition("```\n<!-- /knobs -->")[0]
    minimal = GOOD[: GOOD.index("[judge]")]
    assert load(written(tmp_path, minimal + shown)) == load(written(tmp_path, minimal))
    tables = tomllib.loads(shown)
    assert {name: set(table) for name, table in tables.items()} == {
        "judge": set(Judge.__struct_fields__),
        "rollback": set(Rollback.__struct_fields__),
        "capture": set(Capture.__struct_fields__),
    }
