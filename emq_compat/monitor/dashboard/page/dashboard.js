// The dashboard's page: each of its sections is a module of its own.

import "./colours.js";
import { start } from "./session.js";

start();
