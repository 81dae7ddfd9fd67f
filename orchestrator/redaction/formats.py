"""The table of what counts as a secret: names whose values are secrets, and tokens that are known by their form.

Rule: an entry matches no text that is not a secret. What is masked is also masked in identities, so that a wrong match
would change the identity of a stage. Lengths are bounded and starts anchored, so that a search takes linear time.
"""

import re
from collections.abc import Mapping

MASK = "***"

# The ends of names, of any case, with `_`, `-` or nothing between words.
SECRET_NAMES: tuple[str, ...] = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "secret_key",
    "secret_access_key",
    "client_secret",
    "access_key",
    "access_key_id",
    "account_key",
    "shared_access_key",
    "shared_access_signature",
    "storage_key",
    "private_key",
    "encryption_key",
    "signing_key",
    "api_key",
    "api_token",
    "auth_token",
    "access_token",
    "session_token",
    "security_token",
    "refresh_token",
    "id_token",
    "bot_token",
    "bearer_token",
    "hf_token",
    "github_token",
    "gitlab_token",
    "slack_token",
    "openai_token",
    "wandb_token",
    "credential",
    "credentials",
    "authorization",
    "connection_string",
)
# Of the query of an address: every name above, and these. A name that only contains one (`max_tokens`) is none.
QUERY_NAMES: tuple[str, ...] = (
    "token",
    "signature",
    "sig",
    "awsaccesskeyid",
    "googleaccessid",
    "auth",
)

# What a token is -> parts of which one stands in each (a quick test), and its form.
TOKENS: Mapping[str, tuple[tuple[str, ...], re.Pattern[str]]] = {
    name: (parts, re.compile(pattern))
    for name, parts, pattern in (
        ("AWS access key", ("AKIA", "ASIA", "ABIA", "ACCA"), r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b"),
        (
            "AWS session token",
            ("IQoJb3JpZ2lu", "oGZXIvYXdz"),
            r"(?<![\w+])(?:IQoJb3JpZ2lu|F[wQ]oGZXIvYXdz)[\w+/%-]{60,8000}={0,2}",
        ),
        ("Google API key", ("AIza",), r"\bAIza[\w-]{35}"),
        ("Google OAuth token", ("ya29.",), r"\bya29\.[\w-]{20,2000}"),
        ("Google client secret", ("GOCSPX-",), r"\bGOCSPX-[\w-]{20,40}"),
        ("Google HMAC key", ("GOOG",), r"\bGOOG[0-9A-Z]{20,70}\b"),
        ("Azure client secret", ("8Q~",), r"(?<![\w~.-])[\w~.-]{3}8Q~[\w~.-]{31,34}"),
        ("Azure signature", ("sig=",), r"\bsig=[\w%/+-]{16,200}(?:%3[Dd]|=)"),
        ("Hugging Face token", ("hf_", "api_org_"), r"\b(?:hf|api_org)_[A-Za-z0-9]{30,200}"),
        ("GitHub token", ("gh", "github_pat_"), r"\bgh[pousr]_[A-Za-z0-9]{30,255}|\bgithub_pat_\w{22,255}"),
        ("GitLab token", ("gl",), r"\bgl(?:pat|ptt|dt|rt|cbt|soat)-[\w-]{20,255}"),
        (
            "OpenAI or Anthropic key",
            ("sk-",),
            r"\bsk-(?:(?:proj|svcacct|admin|ant|or)-[\w-]{20,255}|[A-Za-z0-9]{20,255})",
        ),
        ("Slack token", ("xox", "xapp-"), r"\bxox[a-z]-[\w-]{10,255}|\bxapp-[\w-]{10,255}"),
        ("Slack webhook", ("hooks.slack.com/",), r"(?<=hooks\.slack\.com/)(?:services|workflows)/[\w/-]{10,255}"),
        ("Weights & Biases key", ("wandb_v", "local-"), r"\bwandb_v\d{1,3}_\w{20,255}|\blocal-[0-9a-f]{40}\b"),
        ("Databricks token", ("dapi",), r"\bdapi[0-9a-f]{32}\b"),
        ("Replicate token", ("r8_",), r"\br8_[A-Za-z0-9]{37,100}"),
        ("PyPI token", ("pypi-",), r"\bpypi-[\w-]{50,1000}"),
        ("npm token", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
        ("Docker token", ("dckr_",), r"\bdckr_[po]at_[\w-]{20,255}"),
        ("Vault token", ("hv",), r"\bhv[sbr]\.[\w-]{24,500}"),
        ("SendGrid key", ("SG.",), r"\bSG\.[\w-]{22}\.[\w-]{43}(?![\w-])"),
        ("Telegram token", (":AA",), r"\b\d{8,10}:AA[\w-]{30,50}"),
        ("Twilio key", ("SK",), r"\bSK[0-9a-f]{32}\b"),
        ("Stripe key", ("k_live_", "k_test_"), r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}"),
        ("JSON Web Token", ("eyJ",), r"\beyJ[\w-]{8,8000}\.(?:eyJ)?[\w-]{8,8000}(?:\.[\w-]{0,8000}){1,3}"),
        ("bearer token", ("earer",), r"\b[Bb]earer\s{1,8}[\w.~+/-]{16,8000}={0,2}"),
    )
}
# One of these is in every text that one of the patterns below finds.
NAME_PART = re.compile(r"pass|secret|key|token|credential|authoriz|cookie|signature|sig=|auth=|connection", re.I)

PRIVATE_KEY_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
PRIVATE_KEY_END = re.compile(r"-----END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")


def _any_name(names: tuple[str, ...]) -> str:
    """A pattern of the names, longest first, with any separator between their words."""
    return "|".join(name.replace("_", "[_-]?") for name in sorted(names, key=len, reverse=True))


_NAME = _any_name(SECRET_NAMES)
_QUERY_NAME = _any_name((*SECRET_NAMES, *QUERY_NAMES))

CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # where a word of `secretAccessKey` begins
SECRET_NAME = re.compile(rf"(?:^|[_.-])(?:{_NAME})$", re.IGNORECASE)
ADDRESS_PASSWORD = re.compile(
    r"(?<![\w+.-])(?P<before>[a-zA-Z][\w+.-]{0,40}://[^\s/@:]{0,200}):[^\s/]{0,1000}@"
)  # scheme://user:password@
QUERY_SECRET = re.compile(rf"(?P<before>[?&;](?:[\w-]{{0,40}}[_-])?(?:{_QUERY_NAME})=)[^&;\s#'\"]+", re.IGNORECASE)
# password=..., "api_key": "...", 'client_secret': '...', AccountKey=...; a colon counts between quotes only, as in text
# it stands before an explanation.
ASSIGNMENT = re.compile(
    rf"(?P<before>(?<![A-Za-z0-9])(?:{_NAME})"
    rf"(?:(?:\\?['\"])?\s{{0,4}}=\s{{0,4}}|\\?['\"]\s{{0,4}}:\s{{0,4}}(?=\\?['\"])))"
    r"(?:(?P<quote>\\?['\"])(?P<quoted>(?:(?!(?P=quote)).){1,4000})(?P=quote)|(?![A-Za-z_][\w.]{0,80}[(\[])[^\s'\"\\;,&(){}\[\]<>=#*]{3,4000}={0,2})",
    re.IGNORECASE,
)
HEADER = re.compile(
    r"(?P<before>\b(?:proxy-)?authorization['\"]?\s{0,4}[:=]\s{0,4}['\"]?"
    r"|\b(?:set-)?cookie: |(?<![\w-])x-[\w-]{0,30}(?:api-?key|token): )"
    r"(?:(?:basic|bearer|token|digest|negotiate)\s{1,4})?[^\s'\",;*]{6,8000}",
    re.IGNORECASE,
)
# --api-key VALUE; "--token", "VALUE": as commands stand in messages. A value has a digit, words of sentences have none.
OPTION = re.compile(
    rf"(?P<before>(?<![\w-])--(?:[a-z0-9-]{{0,40}}-)?(?:{_NAME}|token)(?:\s{{1,4}}|['\"],\s{{0,4}}['\"]))"
    r"(?=[^\s'\"\d]{0,100}\d)(?!-)[^\s'\",]{8,4000}",
    re.IGNORECASE,
)
OPAQUE = re.compile(r"[\w.~+/-]{20,8000}={0,2}")  # the value of a name that is just `token`
SECRET_VARIABLE = re.compile(r"(?:SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY|ACCOUNT_KEY|PAT)$", re.I)
