"""Names from a real Consul."""

from ipaddress import ip_address
from pathlib import Path

from dma.naming.registry.consul import ConsulFeed
from dma.naming.registry.settings import Access
from dma.naming.registry.settings import Consul as Settings
from idm.ca import Authority
from tests.dma.capture.lab import SERVER_V4, Cable
from tests.dma.naming.registry.conftest import following, partition
from tests.dma.naming.registry.looking import called, until
from tests.lab.consul import Consul
from tests.lab.namespace import Namespace

WEB, DATABASE = "198.18.7.1", "198.18.7.2"
BALLAST = "." * 500_000


def test_changes_are_pushed(network: Cable, consul: Consul) -> None:
    """Instances that come, move and go are known at once, each by its address and port."""
    consul.register("web", WEB, 8080)
    with following(network, ConsulFeed(Settings(url=consul.url))) as names:
        until(lambda: names.synced and called(names, WEB, 8080) == ("web",))
        assert called(names, WEB, 8081) == ()
        consul.register("db", DATABASE, 5432)
        assert until(lambda: called(names, DATABASE, 5432) == ("db",)) < 1
        consul.deregister(DATABASE, 5432)
        consul.register("db", DATABASE, 15432)
        assert until(lambda: called(names, DATABASE, 5432) == () and called(names, DATABASE, 15432)) < 1
        consul.deregister(WEB, 8080)
        assert until(lambda: called(names, WEB, 8080) == ()) < 1
        assert names.counters.failures == 0


def test_a_healthy_instance_takes_the_place_of_a_dead_one(network: Cable, consul: Consul) -> None:
    """Of two services at one place both names are known, that of the healthy one first."""
    consul.call(
        "PUT",
        "/v1/catalog/register",
        {
            "Node": "other",
            "Address": WEB,
            "Service": {"Service": "a-left-over", "Port": 8080},
            "Check": {"Name": "alive", "Status": "critical", "ServiceID": "a-left-over"},
        },
    )
    consul.register("web", WEB, 8080, check="passing")
    with following(network, ConsulFeed(Settings(url=consul.url))) as names:
        until(lambda: called(names, WEB, 8080) == ("web", "a-left-over"))


def test_a_sidecar_is_named_after_its_service(network: Cable, consul: Consul) -> None:
    """Whoever calls a service through its proxy calls the service."""
    proxy = {"DestinationServiceName": "web", "LocalServiceAddress": WEB, "LocalServicePort": 8080}
    body = {"Name": "web-proxy", "Kind": "connect-proxy", "Address": WEB, "Port": 21000, "Proxy": proxy}
    consul.call("PUT", "/v1/agent/service/register", body)
    with following(network, ConsulFeed(Settings(url=consul.url))) as names:
        until(lambda: called(names, WEB, 21000) == ("web",))


def test_a_restart_changes_no_name(network: Cable, consul: Consul) -> None:
    """While the server is down its names stay and failures are counted; after it is back changes arrive again."""
    consul.register("web", WEB, 8080)
    with following(network, ConsulFeed(Settings(url=consul.url))) as names:
        until(lambda: names.synced and called(names, WEB, 8080))
        names.changed()
        consul.kill()
        until(lambda: names.counters.failures)
        assert called(names, WEB, 8080) == ("web",)
        consul.start()
        assert names.changed() == set()
        consul.deregister(WEB, 8080)
        until(lambda: called(names, WEB, 8080) == ())
        assert names.counters.unnamed == 0


def test_a_catalogue_that_is_still_being_read_is_not_believed(network: Cable, consul: Consul) -> None:
    """A server that has much to read answers before it has: nothing that it does not know yet is taken for gone."""
    for entry in range(40):
        consul.store(f"ballast/{entry}", BALLAST)
    consul.register("web", WEB, 8080)
    with following(network, ConsulFeed(Settings(url=consul.url))) as names:
        until(lambda: names.synced and called(names, WEB, 8080))
        names.changed()
        for _ in range(3):
            consul.kill()
            until(lambda: not names.synced)
            consul.start()
            until(lambda: names.synced)
        assert names.changed() == set()


def test_names_of_a_registry_that_stays_away_are_dropped(network: Cable, consul: Consul) -> None:
    """They are kept for a while only; from then on failures tell of names that may be missing."""
    consul.register("web", WEB, 8080)
    with following(network, ConsulFeed(Settings(url=consul.url)), keep_s=1) as names:
        until(lambda: called(names, WEB, 8080))
        consul.kill()
        assert until(lambda: called(names, WEB, 8080) == ()) >= 0.9
        assert names.counters.unnamed


def test_what_happened_during_a_partition_is_known_after_it(network: Cable, consul: Consul) -> None:
    """No name outlives its deregistration by more than five seconds after the server can be reached again."""
    consul.register("web", WEB, 8080)
    with following(network, ConsulFeed(Settings(url=consul.url))) as names:
        until(lambda: called(names, WEB, 8080))
        with partition(network):
            consul.deregister(WEB, 8080)
            until(lambda: names.counters.failures, within_s=10)
            assert called(names, WEB, 8080) == ("web",)
        until(lambda: called(names, WEB, 8080) == ())


def test_tokens_certificates_and_datacentres(network: Cable, tmp_path: Path) -> None:
    """With a token and a certificate of the CA all is known; without, or of another datacentre, a failure says why."""
    authority = Authority(tmp_path / "ca", "shop")
    server = authority.manager([ip_address(SERVER_V4)])
    client = authority.vcd("web")
    access = Access(ca=str(client.ca), certificate=str(client.certificate))
    token_file = tmp_path / "token"
    with Consul(
        Namespace(network.server), SERVER_V4, tmp_path / "consul", tls=server, client=client, acl=True
    ) as consul:
        token_file.write_text(consul.reader() + "\n")
        consul.register("web", WEB, 8080)
        good = Settings(url=consul.url, datacentre="lab", token_file=str(token_file), tls=access)
        with following(network, ConsulFeed(good)) as names:
            until(lambda: called(names, WEB, 8080) == ("web",))
        elsewhere = Settings(url=consul.url, datacentre="nowhere", token_file=str(token_file), tls=access)
        stranger = Settings(url=consul.url, token_file=str(token_file), tls=Access(ca=str(client.ca)))
        assert "500" in refusal(network, elsewhere)
        assert "certificate" in refusal(network, stranger)


def refusal(network: Cable, settings: Settings) -> str:
    """Why nothing is known with these settings."""
    with following(network, ConsulFeed(settings)) as names:
        until(lambda: names.counters.failures > 1)
        assert called(names, WEB, 8080) == ()
        return names.counters.problem
