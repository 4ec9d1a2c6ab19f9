// What a browser without modules, or one that can't read ours, is told. Nothing here is newer than such browsers.

window.addEventListener("load", function () {
  if (!document.documentElement.getAttribute("data-begun")) {
    document.getElementById("old").removeAttribute("hidden");
  }
});
