"""Names from a real etcd."""

from ipaddress import ip_address
from pathlib import Path

from dma.naming.registry.etcd import PAGE, EtcdFeed
from dma.naming.registry.settings import Access
from dma.naming.registry.settings import Etcd as Settings
from idm.ca import Authority
from tests.dma.capture.lab import SERVER_V4, Cable
from tests.dma.naming.registry.conftest import following, partition
from tests.dma.naming.registry.looking import called, until
from tests.lab.etcd import Etcd
from tests.lab.namespace import Namespace

WEB, DATABASE = "198.18.7.1", "198.18.7.2"


def test_changes_are_pushed(network: Cable, etcd: Etcd) -> None:
    """Entries below the prefix that come, change and go are known at once."""
    etcd.put("/services/web/a", f"{WEB}:8080")
    etcd.put("/other/web/a", f"{WEB}:9090")
    with following(network, EtcdFeed(Settings(urls=(etcd.url,)))) as names:
        until(lambda: names.synced and called(names, WEB, 8080) == ("web",))
        assert called(names, WEB, 9090) == ()
        etcd.put("/services/db/a", f"{DATABASE}:5432")
        assert until(lambda: called(names, DATABASE, 5432) == ("db",)) < 1
        etcd.put("/services/db/a", f"{DATABASE}:15432")
        assert until(lambda: called(names, DATABASE, 5432) == () and called(names, DATABASE, 15432)) < 1
        etcd.delete("/services/web/a")
        assert until(lambda: called(names, WEB, 8080) == ()) < 1
        assert names.counters.failures == 0


def test_a_lease_that_ends_takes_its_names_along(network: Cable, etcd: Etcd) -> None:
    """A name goes with its entry's time to live, at most five seconds late."""
    with following(network, EtcdFeed(Settings(urls=(etcd.url,)))) as names:
        etcd.put("/services/web/a", f"{WEB}:8080", lease_s=2)
        until(lambda: called(names, WEB, 8080))
        until(lambda: called(names, WEB, 8080) == (), within_s=7)


def test_a_restart_changes_no_name(network: Cable, etcd: Etcd) -> None:
    """While the member is down its names stay and failures are counted; after it is back changes arrive again."""
    etcd.put("/services/web/a", f"{WEB}:8080")
    with following(network, EtcdFeed(Settings(urls=(etcd.url,)))) as names:
        until(lambda: names.synced and called(names, WEB, 8080))
        names.changed()
        etcd.kill()
        until(lambda: names.counters.failures)
        assert called(names, WEB, 8080) == ("web",)
        etcd.start()
        assert names.changed() == set()
        etcd.delete("/services/web/a")
        until(lambda: called(names, WEB, 8080) == ())


def test_another_member_takes_over(network: Cable, etcd: Etcd) -> None:
    """Of several members one that answers is found."""
    etcd.put("/services/web/a", f"{WEB}:8080")
    with following(network, EtcdFeed(Settings(urls=(f"http://{SERVER_V4}:1", etcd.url)))) as names:
        until(lambda: called(names, WEB, 8080) == ("web",))


def test_compaction_during_a_partition_is_survived(network: Cable, etcd: Etcd) -> None:
    """What was deleted and forgotten while nobody could watch is gone five seconds after the way is free again."""
    etcd.put("/services/web/a", f"{WEB}:8080")
    with following(network, EtcdFeed(Settings(urls=(etcd.url,)))) as names:
        until(lambda: called(names, WEB, 8080))
        with partition(network):
            etcd.delete("/services/web/a")
            etcd.compact(etcd.put("/services/db/a", f"{DATABASE}:5432"))
            until(lambda: names.counters.failures, within_s=10)
            assert called(names, WEB, 8080) == ("web",)
        until(lambda: called(names, WEB, 8080) == () and called(names, DATABASE, 5432) == ("db",))


def test_long_listings_come_in_pages(network: Cable, etcd: Etcd) -> None:
    """More entries than fit into one answer are all known."""
    puts = [{"requestPut": etcd.pair(f"/services/web/{n:04}", f"{WEB}:{n}")} for n in range(1, PAGE + 100)]
    for at in range(0, len(puts), 100):
        etcd.call("POST", "/v3/kv/txn", {"success": puts[at : at + 100]})
    with following(network, EtcdFeed(Settings(urls=(etcd.url,)))) as names:
        until(lambda: names.synced)
        assert all(called(names, WEB, port) == ("web",) for port in range(1, PAGE + 100))


def test_passwords_and_certificates(network: Cable, tmp_path: Path) -> None:
    """With a password and the CA of its certificate the prefix is followed; without, a failure says why."""
    authority = Authority(tmp_path / "ca", "shop")
    server, client = authority.manager([ip_address(SERVER_V4)]), authority.vcd("web")
    access = Access(ca=str(client.ca))
    (tmp_path / "password").write_text("secret\n")
    with Etcd(Namespace(network.server), SERVER_V4, tmp_path / "etcd", tls=server, client=client) as etcd:
        etcd.put("/services/web/a", f"{WEB}:8080")
        etcd.require_passwords("/services/", "agent", "secret")
        good = Settings(urls=(etcd.url,), user="agent", password_file=str(tmp_path / "password"), tls=access)
        with following(network, EtcdFeed(good)) as names:
            until(lambda: called(names, WEB, 8080) == ("web",))
            etcd.put("/services/db/a", f"{DATABASE}:5432")
            until(lambda: called(names, DATABASE, 5432) == ("db",))
        assert "400" in refusal(network, Settings(urls=(etcd.url,), tls=access))
        assert "certificate" in refusal(network, Settings(urls=(etcd.url,)))


def refusal(network: Cable, settings: Settings) -> str:
    """Why nothing is known with these settings."""
    with following(network, EtcdFeed(settings)) as names:
        until(lambda: names.counters.failures > 1)
        assert called(names, WEB, 8080) == ()
        return names.counters.problem
