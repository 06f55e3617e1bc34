"""Secrets as people have them lying about: 30 forms, made up, and never to be found in an archive."""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """`values` are what must not be found; `text` is where they stand."""

    name: str
    text: str
    values: tuple[str, ...]


_PEM = ("-----BEGIN RSA PRIVATE KEY-----\nMIIEpQIBAAKCAQEA7plantedPEMkeyBody0123456789abcdefABCDEF+/zz\n"
        "q2plantedSecondLineOfTheKeyBody0123456789abcdefABCDEF\n-----END RSA PRIVATE KEY-----")


def _plain(name: str, value: str, text: str = "{}") -> Form:
    return Form(name, text.format(value), (value,))


PLANTED = (
    _plain("github", "ghp_Pl4ntedGithubToken0123456789abcdefgh"),
    _plain("github-oauth", "gho_Pl4ntedGithubOauth0123456789abcdefgh"),
    _plain("github-fine", "github_pat_11PLANTED0_fineGrainedToken0123456789abcdefghijk"),
    _plain("gitlab", "glpat-Pl4ntedGitlabTok-123"),
    _plain("huggingface", "hf_Pl4ntedHuggingFaceTokenAbCdEfGh12"),
    _plain("openai", "sk-Pl4ntedOpenAiKey0123456789abcdefABCDEF0123456789"),
    _plain("anthropic", "sk-ant-api03-Pl4nted_Anthropic-Key0123456789abcdef"),
    _plain("aws-id", "AKIAPLANTEDKEYID0123"[:20]),
    _plain("aws-secret", "pl4ntedAwsSecret/K7MDENG+bPxRfiCYEXAMPLE", "aws_secret_access_key = {}"),
    _plain("slack", "xoxb-1234567890-pl4ntedSlackBotToken"),
    _plain("slack-webhook", "T0PL4NTED/B0PL4NTED/pl4ntedWebhookPath99", "https://hooks.slack.com/services/{}"),
    _plain("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbDRudGVkIn0.Pl4ntedJwtSignature-_0123"),
    Form("pem", _PEM, tuple(line for line in _PEM.split("\n") if "planted" in line)),
    _plain("bearer", "pl4ntedBearer0123456789.abcdef", "Authorization: Bearer {}"),
    _plain("basic", "cGw0bnRlZDpiYXNpY1Bhc3N3b3Jk", "Authorization: Basic {}"),
    _plain("url", "pl4ntedUrlPassw0rd", "https://ada:{}@example.org/data"),
    _plain("query", "pl4ntedQueryToken01", "https://example.org/x?token={}&a=b"),
    _plain("amazon-signature", "pl4nted0123456789abcdef0123456789abcdef0123456789abcdef01234567",
           "https://b.s3.amazonaws.com/o?X-Amz-Date=1&X-Amz-Signature={}"),
    _plain("npm", "npm_Pl4ntedNpmToken0123456789abcdefghijk"),
    _plain("pypi", "pypi-AgEIcHlwaS5vcmcCPl4ntedPypiToken0123456789"),
    _plain("azure-account", "pl4ntedAzureAccountKey0123456789abcdefABCDEF0123456789==",
           "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=core.windows.net"),
    _plain("azure-sas", "pl4ntedSasSig%2F0123456789abcdef%3D", "https://a.blob.core.windows.net/c?sv=2022&sig={}&se=1"),
    _plain("google", "AIzaPl4ntedGoogleApiKey0123456789abcdefg"),
    _plain("netrc", "pl4ntedNetrcPassw0rd", "machine api.wandb.ai login user password {}"),
    _plain("docker", "cGw0bnRlZDpkb2NrZXJQYXNzd29yZA==", '{{"auths": {{"registry.example.org": {{"auth": "{}"}}}}}}'),
    _plain("option", "pl4ntedOption01", "python x.py --api-key={}"),
    _plain("option-apart", "pl4ntedOption02", "python x.py --api-key {} --lr 0.1"),
    _plain("assignment", "pl4ntedAssigned03", "MY_TOKEN={} python x.py"),
    _plain("python", "pl4ntedInPython04", 'api_key = "{}"'),
    _plain("json", "pl4ntedInJson05", '{{"password": "{}", "lr": 0.1}}'),
    _plain("yaml", "pl4ntedInYaml06", "client_secret: {}"),
    _plain("login", "0123456789abcdefpl4nted0123456789abcdef0", 'wandb.login(key="{}")'),
)
