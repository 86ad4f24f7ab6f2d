"""What the rules record has the values that the names promise: promtool computes them."""

from pathlib import Path
from typing import Final

import yaml

from tests.contract import monitoring
from tests.contract.manifests import JsonObject, text
from tests.contract.monitoring import expanded
from tests.contract.test_alert_rules import promtool

MINUTES: Final = 400

SERIES: Final = {
    # 10 a second answered; 1 fails, 0.5 is refused late, 0.5 finds its model not loaded.
    "nv_inference_request_success{MODEL}": f"0+600x{MINUTES}",
    'nv_inference_request_failure{MODEL,reason="BACKEND"}': f"0+60x{MINUTES}",
    'stoker_requests_refused_total{MODEL,reason="predicted_late"}': f"0+30x{MINUTES}",
    'stoker_requests_unrouted_total{POD,reason="not_ready"}': f"0+30x{MINUTES}",
    # None of these counts: the client's doing, or counted already as REJECTED.
    'nv_inference_request_failure{MODEL,reason="CANCELED"}': f"0+600x{MINUTES}",
    'stoker_requests_refused_total{MODEL,reason="invalid"}': f"0+600x{MINUTES}",
    'stoker_requests_refused_total{MODEL,reason="queue_full"}': f"0+600x{MINUTES}",
    'stoker_requests_unrouted_total{POD,reason="unknown_model"}': f"0+600x{MINUTES}",
    # Half within 10 ms, the rest within 25.
    'stoker_request_duration_seconds_bucket{MODEL,le="0.005"}': f"0+0x{MINUTES}",
    'stoker_request_duration_seconds_bucket{MODEL,le="0.01"}': f"0+300x{MINUTES}",
    'stoker_request_duration_seconds_bucket{MODEL,le="0.025"}': f"0+600x{MINUTES}",
    'stoker_request_duration_seconds_bucket{MODEL,le="+Inf"}': f"0+600x{MINUTES}",
    "stoker_demand_ratio{POD}": f"0.9x{MINUTES}",
    "stoker_demand_ratio{SECOND}": f"0.3x{MINUTES}",
    "stoker_demand_ratio_5s{POD}": f"1.5x{MINUTES}",
    "stoker_demand_ratio_5s{SECOND}": f"0.5x{MINUTES}",
    "stoker_queue_delay_seconds{POD}": f"0.03x{MINUTES}",
    "stoker_queue_delay_seconds{SECOND}": f"0.01x{MINUTES}",
    "stoker_ready{POD}": f"1x{MINUTES}",
    "stoker_ready{SECOND}": f"0x{MINUTES}",
}

JOB: Final = '{namespace="serving",job="serving/stoker"}'
OF_MODEL: Final = '{namespace="serving",job="serving/stoker",model="resnet"}'
FAILED: Final = 2 / 12

EXPECTED: Final = {
    f"namespace_job:stoker_requests:rate5m{JOB}": 12,
    f"namespace_job:stoker_requests_failed:rate5m{JOB}": 2,
    **{
        f"namespace_job:stoker_requests_failed:ratio_rate{window}{JOB}": FAILED
        for window in ("5m", "30m", "1h", "2h", "6h", "1d")
    },
    f"namespace_job_model:stoker_request_duration_seconds:p50_rate5m{OF_MODEL}": 0.01,
    f"namespace_job_model:stoker_request_duration_seconds:p99_rate5m{OF_MODEL}": 0.0247,
    f"namespace_job:stoker_demand_ratio:sum{JOB}": 1.2,
    f"namespace_job:stoker_demand_ratio:avg{JOB}": 0.6,
    f"namespace_job:stoker_demand_ratio_5s:avg{JOB}": 1.0,
    f"namespace_job:stoker_queue_delay_seconds:avg{JOB}": 0.02,
    f"namespace_job:stoker_ready:sum{JOB}": 1,
}


def test_recorded_series_have_the_values_that_their_names_promise(tmp_path: Path) -> None:
    recording = [rule for rule in monitoring.rules() if "record" in rule]
    assert {text(rule, "record") for rule in recording} == {
        name.partition("{")[0] for name in EXPECTED
    }
    rules, tests = tmp_path / "rules.yaml", tmp_path / "test.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "recorded", "rules": recording}]}))
    case: JsonObject = {
        "interval": "1m",
        "input_series": [
            {"series": expanded(series), "values": values} for series, values in SERIES.items()
        ],
        "promql_expr_test": [
            # Rounded: promtool compares to the last bit.
            {
                "expr": f"round({series}, 0.0001)",
                "eval_time": f"{MINUTES}m",
                "exp_samples": [
                    {"labels": "{" + series.partition("{")[2], "value": round(value, 4)}
                ],
            }
            for series, value in EXPECTED.items()
        ],
    }
    tests.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [case]})
    )
    ran = promtool("test", "rules", str(tests))
    assert ran.returncode == 0, ran.stdout + ran.stderr
