"""What counts as worth remembering."""

import pytest

from chatrpc.models.summary.salience import salience


@pytest.mark.parametrize(
    ("worthy", "idle"),
    [
        ("user: My name is Ada.", "user: That is a good name."),
        ("user: I was born in Turin.", "user: I was thinking about it."),
        ("user: I prefer tea.", "user: I love that idea."),
        ("user: I teach chemistry at a school.", "user: I think chemistry is hard."),
        ("user: We decided to paint the kitchen green.", "user: We could paint the kitchen green."),
        ("user: Please remember to water the plants.", "user: I remember when we had plants."),
        ("user: The deadline is on 3 May.", "user: The deadline was long ago!"),
        ("user: I live near Cafe Nero.", "user: I live near Cafe Nero?"),
        ("user: I am allergic to nuts.", "assistant: I am allergic to nuts, so to say!"),
        ("user: Ihr Hund ist in Turin.", "user: Hallo du."),
    ],
)
def test_a_lasting_fact_is_worth_more_than_talk(worthy: str, idle: str) -> None:
    assert salience(worthy) > salience(idle)


def test_a_script_without_spaces_is_not_taken_for_a_short_sentence() -> None:
    assert salience("user: 我的妹妹住在奥斯陆。") > salience("user: Oh dear.")
