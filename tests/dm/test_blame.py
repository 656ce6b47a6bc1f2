"""Who is to blame, for any evidence."""

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dm.blame import Facts, Symptom, blame
from dm.contacts import Contact, Contacts
from dm.edge import EdgeKey, Failure, Transport
from dm.states import EdgeState, Judged

NAMES = st.sampled_from("abcdef")
KEYS = st.builds(EdgeKey, NAMES, NAMES, st.just(Transport.TCP), st.sampled_from([80, 81])).filter(
    lambda key: key.source != key.target
)
STATES = st.sampled_from([EdgeState.FAILING, EdgeState.MISSING, EdgeState.RETARGETED])
SYMPTOMS = st.lists(
    st.builds(
        Symptom,
        KEYS,
        st.builds(Judged, STATES, st.just("wrong"), st.just(5.0), st.just(True)),
        kinds=st.frozensets(st.sampled_from(Failure)),
        since_s=st.floats(0, 10),
        until_s=st.floats(10, 20),
        pending=st.booleans(),
        uncalled=st.booleans(),
        attempted=st.booleans(),
        deaf=st.booleans(),
        untried=st.booleans(),
    ),
    unique_by=lambda symptom: symptom.key,
    max_size=12,
)
CONTACTS = st.lists(
    st.builds(Contact, KEYS, st.floats(0, 10), st.just(-math.inf), st.booleans(), st.booleans()),
    unique_by=lambda contact: contact.key,
    max_size=12,
)


def facts(contacts: list[Contact], *, down: str = "", silent: str = "") -> Facts:
    """All are VCDs but f, which is outside."""
    known = Contacts(lambda name: [one for one in contacts if name in (one.key.source, one.key.target)])
    return Facts(
        vcds=frozenset("abcde"),
        down=dict.fromkeys(down, "is stopped"),
        silent=frozenset(silent),
        contacts=known,
        reached={one.key: found for one in contacts if (found := known.reached_by(one.key, since_s=5.0))},
    )


@given(SYMPTOMS, CONTACTS, st.sets(NAMES, max_size=2), st.sets(NAMES, max_size=2))
def test_each_culprit_is_named_once_and_touches_what_is_wrong(
    symptoms: list[Symptom], contacts: list[Contact], down: set[str], silent: set[str]
) -> None:
    """Whatever is reported, each suspect is named once, and with nothing wrong there is none."""
    finding = blame(symptoms, facts(contacts, down="".join(down), silent="".join(silent)))
    names = [suspect.name for suspect in (*finding.culprits, *finding.others)]
    assert len(names) == len(set(names))
    assert set(names) <= {end for symptom in symptoms for end in (symptom.key.source, symptom.key.target)}
    assert bool(finding.culprits) <= bool(symptoms)
    assert all(suspect.external == (suspect.name == "f") for suspect in (*finding.culprits, *finding.others))


@given(SYMPTOMS, CONTACTS, st.randoms(use_true_random=False))
def test_the_order_of_evidence_changes_nothing(
    symptoms: list[Symptom], contacts: list[Contact], random: Random
) -> None:
    """The same symptoms and contacts in another order lead to the same culprits."""
    finding = blame(symptoms, facts(contacts))
    for evidence in (symptoms, contacts):
        random.shuffle(evidence)
    again = blame(symptoms, facts(contacts))
    assert [suspect.name for suspect in again.culprits] == [suspect.name for suspect in finding.culprits]
    assert again.confident == finding.confident


def called(source: str, target: str) -> EdgeKey:
    """An edge."""
    return EdgeKey(source, target, Transport.TCP, 80)


def contact(
    source: str,
    target: str,
    *,
    answered_s: float = -math.inf,
    held: bool = False,
    fails: bool = False,
) -> Contact:
    """What is known of an edge."""
    return Contact(called(source, target), answered_s, -math.inf, held, fails)


def unanswered(*edges: EdgeKey) -> list[Symptom]:
    """Edges that have waited for an answer since 5."""
    wrong = Judged(EdgeState.FAILING, "unanswered", 5.0, counted=True)
    return [
        Symptom(
            edge,
            wrong,
            frozenset(),
            5.0,
            9.0,
            pending=True,
            uncalled=False,
            attempted=True,
            deaf=False,
            untried=False,
        )
        for edge in edges
    ]


def test_a_client_with_one_server_is_not_blamed_for_its_silence() -> None:
    """A server that takes no calls may reach others; a client that calls nobody else cannot show that it does."""
    contacts = [contact("a", "b", fails=True), contact("b", "c", answered_s=9.0)]
    finding = blame(unanswered(called("a", "b")), facts(contacts))
    assert not finding.confident


def test_a_connection_that_is_merely_open_clears_nobody() -> None:
    """Connections stay open while a program hangs: they decide who is named first, and nothing more."""
    contacts = [contact("a", "b", fails=True), contact("b", "c", held=True), contact("d", "b", held=True)]
    finding = blame(unanswered(called("a", "b")), facts(contacts))
    assert finding.culprits[0].name == "a"
    assert not finding.confident


def test_who_reaches_none_of_several_is_cut_off() -> None:
    """One that waits for an answer from two machines, of which one answers others, is to blame for both."""
    contacts = [
        contact("a", "b", fails=True),
        contact("a", "c", fails=True),
        contact("d", "c", answered_s=9.0),
    ]
    finding = blame(unanswered(called("a", "b"), called("a", "c")), facts(contacts))
    assert [suspect.name for suspect in finding.culprits] == ["a"]
    assert finding.confident


def test_who_is_answered_by_others_is_not_blamed_for_a_server_of_its_own() -> None:
    """The only client of a dead store is in touch with others: the store is to blame."""
    contacts = [contact("a", "b", fails=True), contact("a", "c", answered_s=9.0)]
    finding = blame(unanswered(called("a", "b")), facts(contacts))
    assert [suspect.name for suspect in finding.culprits] == ["b"]
    assert finding.confident


def idle(source: str, target: str) -> Symptom:
    """An edge that is gone, from a node that nobody calls on."""
    gone = Judged(EdgeState.MISSING, "gone", 5.0, counted=True)
    return Symptom(
        called(source, target),
        gone,
        frozenset(),
        5.0,
        9.0,
        pending=False,
        uncalled=True,
        attempted=False,
        deaf=False,
        untried=False,
    )


def test_who_is_not_called_does_not_follow_from_itself() -> None:
    """The front end calls nobody, since its only caller's calls are lost on the way: that speaks for either alike."""
    lost = unanswered(called("a", "b"))
    finding = blame([*lost, idle("b", "c")], facts([contact("a", "b", fails=True)]))
    assert not finding.confident


def test_silence_far_behind_its_cause_still_follows_from_it() -> None:
    """However long the chain of those whom nobody calls any more: one machine explains it, and is named alone."""
    lost = unanswered(called("a", "b"))
    behind = [idle("b", "c"), idle("c", "d"), idle("d", "e")]
    contacts = [contact("a", "b", fails=True), contact("b", "c", held=True)]
    finding = blame([*lost, *behind], facts(contacts))
    assert [suspect.name for suspect in finding.culprits] == ["a"]


def test_who_is_clearly_to_blame_does_not_wait_for_who_is_not() -> None:
    """One machine is stopped, and another edge does not tell its ends apart: the first alone is decided for."""
    contacts = [contact("a", "b", fails=True)]
    symptoms = unanswered(called("a", "b"), called("c", "d"))
    finding = blame(symptoms, facts(contacts, down="d"))
    assert [suspect.name for suspect in finding.culprits] == ["d"]
    assert finding.confident
    assert {suspect.name for suspect in finding.others} >= {"a", "b"}
