"""What the cached figure is measured against: one Flask-RESTX endpoint that reads JSON and returns JSON."""

from __future__ import annotations

import argparse
import json

from flask import Flask, request
from flask_restx import Api, Resource

from config import Settings
from serve import open_server


def bare_app(text: str) -> Flask:
    """No cache, no limits, no logs, no cost, no checks: the least that such an endpoint can be."""
    app = Flask(__name__, static_folder=None)
    api = Api(app, doc=False)

    @api.route("/api/v1/generate/text")
    class GenerateText(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
        def post(self) -> dict[str, str]:
            return {"generated_text": text if request.get_json()["prompt"] else ""}

    return app


def main() -> None:
    """Serve on the platform's own waitress settings, threads included, until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_app", description=__doc__)
    parser.add_argument("--bytes", type=int, default=200, help="how long the body of every reply is")
    frame = json.dumps({"generated_text": ""}) + "\n"
    server = open_server(bare_app("x" * (parser.parse_args().bytes - len(frame))), Settings(port=0))
    print(f"http://127.0.0.1:{server.effective_port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
