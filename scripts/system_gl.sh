#!/usr/bin/env bash
# Software OpenGL for the simulator: installed where we may, named where we may not. Costs milliseconds when present.
set -u
packages="libegl1 libegl-mesa0 libgl1-mesa-dri"
[ "$(uname -s)" = Linux ] || exit 0
found() { ldconfig -p 2>/dev/null | grep -q "$1"; }
software() { compgen -G '/usr/lib*/*/dri/*swrast*' || compgen -G '/usr/lib*/dri/*swrast*'; } >/dev/null
if { found libEGL.so.1 && software && { found libEGL_mesa.so.0 || found libEGL_nvidia.so.0; }; } || found libOSMesa.so; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  if { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >/dev/null 2>&1 </dev/null; then exit 0; fi
fi
echo "The simulator needs OpenGL libraries: run  sudo apt-get install $packages" >&2
