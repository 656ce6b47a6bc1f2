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
    ),
    unique_by=lambda symptom: symptom.key,
    max_size=12,
)
HELD_S = st.one_of(st.just(-math.inf), st.floats(0, 10))
CONTACTS = st.lists(
    st.builds(Contact, KEYS, st.floats(0, 10), st.just(-math.inf), HELD_S, st.booleans()),
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
