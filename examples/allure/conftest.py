"""Writes the verdicts of a run as Allure results: ``pytest --nodes=... && allure generate allure-results``.

One result per verdict, by gate, and one for the run itself, so that a run that did not finish is not green there. What could not be
measured is "broken". Format: https://allurereport.org/docs/how-it-works-test-result-file/
"""

import hashlib
import json
import uuid
from datetime import datetime
from pathlib import Path

STATUS = {"pass": "passed", "warn": "passed", "fail": "failed", "unknown": "broken", "skip": "skipped"}


def pytest_h20_report(run_dir, decision):
    verdict = json.loads(Path(run_dir, "verdict.json").read_text(encoding="utf-8"))
    results = Path("allure-results")
    results.mkdir(exist_ok=True)
    start = round(datetime.fromisoformat(verdict["started"].replace("Z", "+00:00")).timestamp() * 1000)
    run = {"check": "run", "title": decision, "status": "pass" if verdict["green"] else "fail", "reason": verdict["reason"]}
    for row in [run, *verdict["checks"]]:
        subject, limit = row.get("subject", ""), row.get("limit")
        identity = " ".join([verdict["header"]["name"], *verdict["header"]["engines"], row["check"], subject])
        result = {
            "uuid": str(uuid.uuid4()),
            "historyId": hashlib.sha256(identity.encode()).hexdigest(),
            "name": f"{row['title']} ({subject})" if subject else row["title"],
            "fullName": f"{row['check']} {subject}".strip(),
            "status": STATUS[row["status"]],
            "statusDetails": {"message": row["reason"], "trace": "\n".join([row.get("action", ""), *row.get("evidence", [])])},
            "stage": "finished",
            "start": start,
            "stop": start + round((row.get("duration_s") or 0) * 1000),
            "labels": [
                {"name": "parentSuite", "value": verdict["header"]["name"]},
                {"name": "suite", "value": row["check"].partition(".")[0]},
            ],
            "parameters": [{"name": "measured", "value": f"{row.get('measured')} {row.get('unit', '')}".strip()}] if limit else [],
        }
        if limit:
            result["parameters"].append({"name": "limit", "value": f"{limit['kind']} {limit['value']} {limit['unit']}".strip()})
        (results / f"{result['uuid']}-result.json").write_text(json.dumps(result), encoding="utf-8")
