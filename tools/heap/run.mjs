// Loads the firmware from device/ into MicroPython, and lets it work until every sensor was read.
// The port collects garbage only while no Python runs: so each look is a call of its own.

import fs from "fs";
import { loadMicroPython } from "@micropython/micropython-webassembly-pyscript";

const PATIENCE = 20000; // ms

const port = await loadMicroPython({ heapsize: 512 * 1024, linebuffer: true, stdout: console.log });
const run = (source) => port.runPython(source);

function load(folder, target) {
    port.FS.mkdir(target);
    for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
        const [from, to] = [`${folder}/${entry.name}`, `${target}/${entry.name}`];
        entry.isDirectory() ? load(from, to) : port.FS.writeFile(to, fs.readFileSync(from));
    }
}

function used() {
    run("import gc; gc.collect()");
    run("used = gc.mem_alloc()");
    return port.globals.get("used");
}

load("device", "/device");
run(fs.readFileSync("port.py", "utf8"));
used();
const base = used();
run("start()");
const end = Date.now() + PATIENCE;
do {
    if (Date.now() > end) throw new Error("PythonError: the firmware is not at work");
    run("done = step()");
} while (!port.globals.get("done"));
console.log(`live heap of the firmware: ${(used() - base).toLocaleString("en")} bytes`);
