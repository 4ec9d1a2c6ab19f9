// The dashboard's page: each of its sections is a module of its own.

import "./colours.js";
import { start } from "./session.js";

document.documentElement.dataset.begun = "yes"; // old.js looks whether it has
start();
