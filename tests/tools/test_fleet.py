"""fleet: tables of devices, and what is made of them by the real `build` and `image`."""

import json
import subprocess

import pytest
import standin
from tools import build, cable, desk, fleet
from tools.__main__ import main
from tools.console import CONFIG, DONE, FAILED, USAGE
from tools.image import esp32, filesystem, uf2

BASE = {
    "broker": "192.168.1.2",
    "device": "base",
    "prefix": "farm",
    "networks": [{"ssid": "home"}, {"ssid": "barn"}],
    "sensors": [{"type": "chip", "name": "chip"}],
}
SECRETS = {
    "user": "all",
    "password": "the broker's word",
    "networks": {"home": "home's word", "barn": "barn's word", "attic": "attic's word"},
}
HEAD = "device,board,config,interval,networks.1.ssid\n"


@pytest.fixture
def farm(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "TREES", tmp_path / "trees")
    monkeypatch.delenv("NIGHT", raising=False)
    (tmp_path / "base.json").write_text(json.dumps(BASE))
    (tmp_path / "secrets.json").write_text(json.dumps(SECRETS))
    return tmp_path


@pytest.fixture
def run(farm, capfd):
    """run(the table, arguments) -> (exit code, what was printed, the error)"""

    def run(table, *args, suffix=".csv"):
        path = farm / f"fleet{suffix}"
        path.write_text(table if isinstance(table, str) else json.dumps(table))
        path.chmod(0o600)
        capfd.readouterr()
        code = main(["fleet", str(path), "--out", str(farm / "out"), *map(str, args)])
        return code, *capfd.readouterr()

    return run


def made(farm, device: str, name: str = "config.json"):
    return json.loads((farm / "out" / device / name).read_text())


def stamps(farm) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in (farm / "out").rglob("*.*")
        if path.name != ".gitignore"
    }


def test_csv(farm, run):
    code, out, err = run(HEAD + "shed,esp32,base.json,30,\n\nyard,rp2040,base.json,,attic\n")
    assert (code, err) == (DONE, "")
    assert made(farm, "shed") == BASE | {"device": "shed", "interval": 30}
    assert made(farm, "yard")["networks"] == [{"ssid": "home"}, {"ssid": "attic"}]
    networks = made(farm, "shed", "secrets.json")["networks"]
    assert networks == {"home": "home's word", "barn": "barn's word"}  # none of another's
    assert made(farm, "yard", "secrets.json")["networks"]["attic"] == "attic's word"
    assert (farm / "out/shed/secrets.json").stat().st_mode & 0o777 == 0o600
    assert "word" not in out
    assert (farm / "out/.gitignore").read_text() == "*\n"


def test_json_is_the_same(farm, run):
    table = [
        {"device": "shed", "board": "esp32", "config": "base.json", "interval": 30},
        {
            "device": "yard",
            "board": "esp32",
            "config": "base.json",
            "prefix": "123",
            "wifi": {"country": "DE"},
            "networks": {"1": {"ssid": "attic"}},
            "sensors": [{"type": "adc", "name": "light", "pin": 4}],
            "secrets": {"wifi": "another word"},
        },
    ]
    assert run(table, suffix=".json")[0] == DONE
    assert made(farm, "shed") == BASE | {"device": "shed", "interval": 30}
    yard = made(farm, "yard")
    assert yard["prefix"] == "123" and yard["wifi"] == {"country": "DE"}
    assert yard["sensors"] == table[1]["sensors"] and yard["networks"][1] == {"ssid": "attic"}
    assert made(farm, "yard", "secrets.json")["networks"]["home"] == "another word"


def test_values_of_a_csv(farm, run):
    table = "device;board;config;discovery;sensors;networks.2.ssid;networks.2.password;ntp\n"
    table += (
        'shed;esp32;base.json;null;"[{""type"": ""chip"", ""name"": ""cpu""}]";cafe;"""""";null'
    )
    assert run(table)[0] == DONE
    found = made(farm, "shed")
    assert found["sensors"] == [{"type": "chip", "name": "cpu"}]
    assert found["networks"][2] == {"ssid": "cafe", "password": ""}
    assert "discovery" not in found and "ntp" not in found


def test_secrets(farm, run, monkeypatch):
    head = "device,board,config,secrets.user,secrets.password,secrets.wifi\n"
    table = head + "shed,esp32,base.json,shed,$NIGHT,$$12345678\n"
    code, _, err = run(table)
    assert code == CONFIG and "the environment has no NIGHT" in err
    monkeypatch.setenv("NIGHT", "a word of the night")
    assert run(table)[0] == DONE
    found = made(farm, "shed", "secrets.json")
    assert found["user"] == "shed" and found["password"] == "a word of the night"
    assert found["networks"] == {"home": "$12345678", "barn": "barn's word"}

    apart = farm / "apart.csv"
    apart.write_text("device,user,password,networks.barn\nshed,1e5,00000000,12345678\n")
    apart.chmod(0o600)
    code, out, err = run(table, "--secrets", apart)
    assert (code, err) == (DONE, "")
    found = made(farm, "shed", "secrets.json")
    assert (found["user"], found["password"]) == ("1e5", "00000000")
    assert found["networks"]["barn"] == "12345678"
    apart.write_text("device,user\nattic,me\n")
    code, _, err = run(table, "--secrets", apart)
    assert code == CONFIG and "apart.csv, line 2: there is no device 'attic'" in err


def test_certificates(farm, run):
    (farm / "ca.pem").write_text("authority")
    (farm / "shed.key").write_text("key")
    head = "device,board,config,ntp,tls,tls.ca,tls.cert,tls.key\n"
    table = head + "shed,esp32,base.json,10.0.0.1,,ca.pem,ca.pem,shed.key\n"
    assert run(table + "yard,esp32,base.json,10.0.0.1,true,,,\n")[0] == DONE
    assert (farm / "out/shed/shed.key").read_text() == "key"
    assert (farm / "out/shed/shed.key").stat().st_mode & 0o777 == 0o600
    assert (farm / "out/yard/ca.pem").read_text() == "authority"
    assert not (farm / "out/yard/shed.key").exists()
    code, _, err = run(head + f"shed,esp32,base.json,10.0.0.1,,../{farm.name}/ca.pem,,\n")
    assert code == CONFIG and "line 2 (shed), tls.ca: expected the name of a file" in err


def test_warns_of_secrets_in_the_open(farm, run, capfd):
    table = farm / "fleet.csv"
    code, _, err = run("device,board,config,secrets.user\nshed,esp32,base.json,me\n")
    assert (code, err) == (DONE, "")
    table.chmod(0o644)
    subprocess.run(["git", "-C", farm, "init", "-q"], check=True)
    subprocess.run(["git", "-C", farm, "add", "fleet.csv"], check=True)
    call = ["fleet", str(table), "--check"]
    assert main(call) == DONE
    err = capfd.readouterr().err
    assert f"others on this machine can read it: `chmod 600 {table}`" in err
    assert "git has it: put the secrets into another file (--secrets)" in err
    table.write_text("device,board,config,secrets.user\nshed,esp32,base.json,$HOME\n")
    apart = farm / "apart.csv"
    apart.write_text("device,user\nshed,$HOME\n")
    apart.chmod(0o644)
    assert main([*call, "--secrets", str(apart)]) == DONE
    assert capfd.readouterr().err == ""
    apart.write_text("device,user\nshed,me\n")
    assert main([*call, "--secrets", str(apart)]) == DONE
    assert f"warning: {apart} holds secrets, and others" in capfd.readouterr().err


LINE = "shed,esp32,base.json,30,\n"


@pytest.mark.parametrize(
    "line, said",
    [
        (",esp32,base.json,,\n", "line 3, device: missing; expected its name"),
        ("my shed,esp32,base.json,,\n", "line 3 (my shed), device: expected 1 to 32 letters"),
        (
            "Shed,esp32,base.json,,\n",
            "line 3 (Shed), device: the name 'Shed' is that of fleet",
        ),
        ("yard,,base.json,,\n", "line 3 (yard), board: missing; expected one of esp32, rp2040"),
        ("yard,esp,base.json,,\n", "line 3 (yard), board: no board 'esp'; there are esp32"),
        (
            "yard,esp32,none.json,,\n",
            "line 3 (yard), config: {}/none.json cannot be read",
        ),
        ("yard,esp32,bad.json,,\n", "line 3 (yard), config: {}/bad.json, or secrets.json beside"),
        (
            "yard,esp32,base.json,0,\n",
            "line 3 (yard), interval: expected a number of seconds from",
        ),
        (
            "yard,esp32,base.json,fast,\n",
            "interval: expected a number of seconds from 0.1 to 86400, n",
        ),
        ("yard,esp32,base.json,,cafe\n", "line 3 (yard), networks.1.ssid: no password; expected"),
        ("yard,esp32,base.json,,12345678\n", "networks.1.ssid: expected text of 1 to 32 bytes"),
        (
            "yard,rp2040,pins.json,,\n",
            "line 3 (yard): {}/pins.json: sensors[0].pin: expected",
        ),
        (
            "yard,esp32,base.json,1,2,3\n",
            "line 3: 6 cells, and the first line names 5; one",
        ),
        ('yard,esp32,"base.json\n', "fleet.csv, line 3: unexpected end of data"),
    ],
)
def test_mistakes(farm, run, line, said):
    (farm / "bad.json").write_text("{")
    pins = BASE | {"sensors": [{"type": "adc", "name": "a", "pin": 4}]}
    (farm / "pins.json").write_text(json.dumps(pins))
    code, out, err = run(HEAD + LINE + line, "--images")
    assert code == CONFIG and said.replace("{}", str(farm)) in err.replace(
        "config.json", "pins.json"
    )
    assert not (farm / "out").exists()


@pytest.mark.parametrize(
    "column, cell, said",
    [
        ("intervall", "3", 'intervall: unknown key; did you mean "interval"?'),
        ("networks.7.ssid", "x", "networks.7.ssid: networks has no 7; expected 0 to 2"),
        ("networks.first.ssid", "x", "networks has no first; expected 0 to 2"),
        ("prefix.a", "x", "prefix.a: prefix is no object and no list, and has no a"),
        ("build", "PICO", "build: no build 'PICO' for esp32: ESP32_GENERIC"),
        ("mac", "24:6f:28", "mac: expected 12 hex digits, as 24:6f:28:00:00:01"),
        ("secrets.pasword", "hidden", 'secrets.pasword: unknown key; did you mean "password"?'),
        ("secrets.wifi", "hidden", 'secrets.wifi: expected "", or text of 8 to 64 bytes'),
        ("tls", "true", "tls: expected"),
    ],
)
def test_mistakes_of_a_column(farm, run, column, cell, said):
    code, _, err = run(f"device,board,config,{column}\nshed,esp32,base.json,{cell}\n")
    assert code == CONFIG and f"fleet.csv, line 2 (shed), {column}: " in err and said in err
    assert "hidden" not in err and "1 of 1 devices have mistakes; nothing was written" in err


def test_all_mistakes_at_once(farm, run):
    table = "device,board,config,prefix,interval,mac,port\n"
    table += "b-c,esp32,base.json,a,1,24-6F-28-00-00-01,COM3\n"
    table += "c,esp32,base.json,a/b,0,24:6f:28:00:00:01,COM3\n"
    table += "d,esp32,base.json,a/b,x,,\n"
    code, _, err = run(table, "--deploy")
    assert code == CONFIG and "2 of 3 devices have mistakes" in err
    for said in (
        "line 3 (c), prefix: the client identifier 'a-b-c' is that of fleet.csv, line 2, too",
        "line 3 (c), mac: '24:6f:28:00:00:01' is that of fleet.csv, line 2, too",
        "line 3 (c), port: 'COM3' is that of fleet.csv, line 2, too",
        "line 4 (d), port: missing; --deploy needs one",
        "line 4 (d), interval: expected a number",
    ):
        assert said in err
    code, _, err = run(table.replace(",0,", ",1,").replace("x,,", "1,,"))
    assert code == CONFIG and "the client identifier 'a-b-c'" in err


@pytest.mark.parametrize(
    "table, suffix, said",
    [
        ("", ".csv", 'its first line names no column "device"'),
        ("name,board\n", ".csv", 'its first line names no column "device"'),
        ("device,board\n", ".csv", "names no device"),
        ("device,board,board\nx,esp32,esp32\n", ".csv", "two columns are board"),
        ("device,\nx,esp32\n", ".csv", "line 2: a cell in a column without a name"),
        ("{", ".json", "line 1 column 2"),
        ({"device": "x"}, ".json", "expected a list of objects"),
        ([], ".json", "names no device"),
        ([{"board": "esp32"}], ".json", "fleet.json, device 1, device: missing"),
    ],
)
def test_files_that_are_none(run, table, suffix, said):
    code, _, err = run(table, suffix=suffix)
    assert code == CONFIG and said in err


def test_file_that_cannot_be_read(farm, capfd):
    assert main(["fleet", str(farm / "none.csv")]) == CONFIG
    assert "none.csv cannot be read: No such file" in capfd.readouterr().err
    (farm / "latin.csv").write_bytes("device\nKüche\n".encode("latin-1"))
    assert main(["fleet", str(farm / "latin.csv")]) == CONFIG
    assert "is not in UTF-8" in capfd.readouterr().err


def test_check_writes_nothing(farm, run):
    code, out, _ = run(HEAD + LINE, "--check")
    assert code == DONE and "1 devices, without a mistake" in out
    assert not (farm / "out").exists() and not (farm / "trees").exists()


# Images


@pytest.fixture
def firmware(farm):
    files = {"ESP32_GENERIC": standin.esp32("esp32"), "RPI_PICO_W": None}
    files["RPI_PICO_W"] = standin.uf2("rp2040", standin.pico("rp2040"))
    args = ["--images"]
    for name, data in files.items():
        (farm / name).write_bytes(data)
        args += ["--firmware", f"{name}={farm / name}"]
    return args


MIXED = (
    "device,board,config,sensors.0.type,sensors.0.name\n"
    "shed,esp32,base.json,,\nyard,rp2040,base.json,,\nattic,esp32,base.json,,\n"
    "barn,esp32,pin.json,,\n"
)


@pytest.fixture
def mixed(farm):
    pin = BASE | {"sensors": [{"type": "digital", "name": "door", "pin": 4}]}
    (farm / "pin.json").write_text(json.dumps(pin))
    return MIXED


def test_images(farm, run, mixed, firmware, monkeypatch):
    compiled = []
    compile_mpy = build.compile_mpy
    monkeypatch.setattr(
        build, "compile_mpy", lambda *args: compiled.append(args) or compile_mpy(*args)
    )
    code, out, err = run(mixed, *firmware)
    assert (code, err) == (DONE, "")
    assert "4 of 4  barn" in out and "shed   made, esp32-ESP32_GENERIC-shed.bin" in out
    assert len(compiled) == len(set(compiled))  # each once for a set of board and sensors
    assert {path.name for path in (farm / "trees").iterdir()} == {
        "esp32-chip",
        "esp32-digital",
        "rp2040-chip",
    }
    for device in ("shed", "attic", "barn"):
        data = (farm / f"out/{device}/esp32-ESP32_GENERIC-{device}.bin").read_bytes()
        place = esp32.read(data[0x1000:], "esp32", device).partitions[-1]
        files = filesystem.read(data[place.offset :], "esp32", place.size // 4096)
        assert json.loads(files["config.json"])["device"] == device
        assert json.loads(files["secrets.json"])["user"] == "all"
        assert ("lib/sensors/digital.mpy" in files) == (device == "barn")
    data = (farm / "out/yard/rp2040-RPI_PICO_W-yard.uf2").read_bytes()
    flash = uf2.flash(uf2.read(data, "rp2040", "yard")[1])
    offset, size = standin.PLACE["rp2040"]
    files = filesystem.read(flash[offset:], "rp2", size // 4096)
    assert json.loads(files["config.json"])["device"] == "yard"

    # again: nothing but checks
    before, count = stamps(farm), len(compiled)
    code, out, _ = run(mixed, *firmware)
    assert code == DONE and out.count("as it was") == 4
    assert stamps(farm) == before and len(compiled) == count
    assert run(mixed)[1].count("as it was") == 4

    # one was spoiled, one has changed
    (farm / "out/shed/esp32-ESP32_GENERIC-shed.bin").write_bytes(b"spoiled")
    code, out, _ = run(
        mixed.replace("attic,esp32,base.json,,", "attic,esp32,base.json,,cpu"), *firmware
    )
    assert code == DONE and out.count("as it was") == 2
    assert (farm / "out/shed/esp32-ESP32_GENERIC-shed.bin").stat().st_size > 1000000
    code, out, _ = run(mixed)
    assert code == DONE and "attic  made; its old image is gone (--images)" in out
    assert not list((farm / "out/attic").glob("*.bin"))
    code, out, _ = run(mixed.replace("attic", "cellar"))
    assert code == DONE and "attic is of no device of the fleet any more" in out


def test_one_failure_leaves_the_others(farm, run, mixed, firmware, monkeypatch):
    assert run(mixed, *firmware)[0] == DONE
    before = stamps(farm)
    (farm / "out/attic/notes.txt").write_text("mine")
    base = BASE | {"interval": 7}
    (farm / "base.json").write_text(json.dumps(base))
    code, out, err = run(mixed, *firmware)
    assert code == FAILED and "1 of 4 devices failed; the others are in" in err
    assert "attic  failed:" in out and "has files that are not the fleet's: move notes.txt" in out
    assert made(farm, "shed")["interval"] == made(farm, "yard")["interval"] == 7
    assert "interval" not in made(farm, "attic")
    kept = {path: stamp for path, stamp in before.items() if "/attic/" in path}
    assert kept.items() <= stamps(farm).items()
    assert not [path for path in (farm / "out").iterdir() if path.name.endswith((".new", ".old"))]


def test_what_a_run_left_that_was_cut(farm, run):
    assert run(HEAD + LINE)[0] == DONE
    before = stamps(farm)
    (farm / "out/shed").rename(farm / "out/.shed.old")
    (farm / "out/.shed.new").mkdir()
    (farm / "out/.shed.new/config.json").write_text("{")
    code, out, _ = run(HEAD + LINE)
    assert code == DONE and "shed  as it was" in out and stamps(farm) == before
    assert {path.name for path in (farm / "out").iterdir()} == {".gitignore", "shed"}


def test_image_that_cannot_be_made(farm, run, mixed, firmware):
    (farm / "RPI_PICO_W").write_bytes(
        standin.uf2("rp2040", standin.pico("rp2040", place=(0x12C000, 16384)))
    )
    code, out, err = run(mixed, *firmware)
    assert code == FAILED and "1 of 4 devices failed" in err
    assert "yard   failed:" in out and "do not fit" in out
    assert not (farm / "out/yard").exists()
    assert len(list((farm / "out").glob("*/*.bin"))) == 3


def test_firmware_files(farm, run, mixed, firmware):
    code, _, err = run(mixed, "--images", "--firmware", farm / "ESP32_GENERIC")
    assert code == USAGE and f"which build is {farm / 'ESP32_GENERIC'} for?" in err
    code, _, err = run(mixed, "--images", "--firmware", f"X={farm / 'ESP32_GENERIC'}")
    assert code == USAGE and "no device has the build X: ESP32_GENERIC, RPI_PICO_W" in err
    code, _, err = run(mixed, *firmware[:3], "--firmware", f"RPI_PICO_W={farm / 'none'}")
    assert code == FAILED and "none cannot be read" in err
    code, _, err = run(HEAD + "shed,unix,base.json,,\n", "--images")
    assert code == CONFIG and "line 2 (shed), board: unix is no board that" in err
    assert not (farm / "out").exists()


def test_deploy(farm, run, tmp_path):
    settings = {"broker": "127.0.0.1", "device": "base"}
    (farm / "desk.json").write_text(json.dumps(settings))
    (farm / "secrets.json").unlink()
    (tmp_path / "desk").mkdir()
    with desk.Board(tmp_path / "desk" / "flash") as board:
        table = f"device,board,config,port\nattic,unix,desk.json,{board.port}\n"
        table += "yard,unix,desk.json,socket://127.0.0.1:1\n"
        code, out, err = run(table, "--deploy")
        assert code == FAILED and "1 of 2 devices failed" in err
        assert "files sent" in out and "yard   failed: nothing answers at socket" in out
        code, out, _ = run(table, "--deploy")
        assert "attic  as it was, nothing to send" in out
        with cable.Cable(board.port) as wire:
            assert json.loads(wire.read("config.json")) == settings | {"device": "attic"}
