"""URLs by which a machine finds who listens on it."""

import pytest

from cluster.report import _urls
from cluster.urls import local_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_a_url_of_every_kind_of_address(host: str, url: str) -> None:
    assert local_url(host, 80) == url
    assert local_url(host, 80, tls=True) == url.replace("http", "https")


def test_a_report_says_where_tls_is_spoken() -> None:
    listen = {"host": "0.0.0.0", "port": 8443, "tls_certificate": "/c.pem", "tls_key": "/k.pem"}
    application = {"deployed_app_config": {"args": {"listen": listen}}}
    details = {"http_options": {"host": "127.0.0.1", "port": 8000}}
    assert _urls(details, application) == ("http://127.0.0.1:8000", "https://127.0.0.1:8443")
