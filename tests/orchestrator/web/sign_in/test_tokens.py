from pathlib import Path

import pytest

from orchestrator.errors import RecipeError
from orchestrator.web.sign_in.tokens import TokenFile, new_token, parse_users
from orchestrator.web.sign_in.users import Role


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alice operator", "line 1: found 2 words"),
        ("alice boss -", "role 'boss'"),
        ("alice nobody -", "role 'nobody'"),
        ("alice viewer 1234", "64 hexadecimal digits"),
        ("alice viewer -\nalice admin -", "line 2: 'alice' is given twice"),
        (f"alice viewer {'a' * 64}\nbob admin {'A' * 64}", "line 2: the token of 'bob' is another user's too"),
    ],
)
def test_mistakes_name_the_line(line: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_users(line, "tokens")


def test_a_made_token_opens_and_no_digest_does(tmp_path: Path) -> None:
    token, line = new_token("alice", "operator")
    path = tmp_path / "tokens"
    path.write_text(f"{line}\nbob viewer -\n")
    path.chmod(0o600)
    file = TokenFile(path=path)
    found = file.user_of(token)
    assert found is not None
    assert (found.name, found.role) == ("alice", Role.OPERATOR)
    assert file.user_of(line.split()[-1]) is None
    assert file.user_of("") is None
    path.chmod(0o666)
    with pytest.raises(RecipeError, match="others may write it"):
        file.users()


@pytest.mark.parametrize("name", ["#x", "", "a b", "a\nb", "a:b"])
def test_no_token_is_made_for_a_name_that_no_line_holds(name: str) -> None:
    with pytest.raises(RecipeError, match="--new-token NAME:ROLE: NAME: found"):
        new_token(name, "viewer")
