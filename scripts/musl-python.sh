#!/bin/sh
# Makes .cache/musl-python: a CPython linked with musl, from Debian's sources, to run the zipapp on.
# About four minutes on two cores; kept until `make clean`. Built without OpenSSL and lzma.
set -eu
cd "$(dirname "$0")/.."
prefix=$PWD/.cache/musl-python
[ ! -x "$prefix/bin/python3" ] || exit 0

export DEBIAN_FRONTEND=noninteractive
missing=
for package in musl-tools gcc make xz-utils dpkg-dev; do
    dpkg-query -W -f '${Status}' $package 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "musl-python: installing$missing"
    # shellcheck disable=SC2086 # a list of package names
    { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } </dev/null >/dev/null
fi

work=$PWD/.cache/musl-build
rm -rf "$work"
mkdir -p "$work/bin" "$work/apt"
cd "$work"

# Sources from the mirror that this machine's apt already uses, without touching its lists.
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
    awk -v r="$release" '$2 == r { print $1; exit }')
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >apt/sources.list
source_of() {
    apt-get -q -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/apt/lists" -o APT::Get::List-Cleanup=0 "$@" </dev/null >>log 2>&1
}
mkdir -p apt/lists/partial
source_of update
python=$(/usr/bin/python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
source_of source --download-only "$python" zlib

# A compiler that says what platform it is for, as configure asks.
cat >bin/musl-cc <<'CC'
#!/bin/sh
case "${1:-}" in -print-multiarch | --print-multiarch) echo "$(uname -m)-linux-musl" && exit ;; esac
exec musl-gcc "$@"
CC
chmod +x bin/musl-cc

unpack() {
    mkdir "$1"
    tar -xf "$(ls "$1"*.orig.tar.* | grep -v asc | head -1)" -C "$1" --strip-components 1
}
echo "musl-python: building ($work/log)"
mv zlib_*.orig.tar.* zlib.orig.tar.gz 2>/dev/null || true
unpack zlib
(cd zlib && CC="$work/bin/musl-cc" CFLAGS='-O2 -fPIC' ./configure --static --prefix="$work/zlib-installed" &&
    make -j2 libz.a && make install) >>log 2>&1
unpack "$python"
(cd "$python" && CC="$work/bin/musl-cc" CPPFLAGS="-I$work/zlib-installed/include" \
    LDFLAGS="-L$work/zlib-installed/lib" ZLIB_CFLAGS="-I$work/zlib-installed/include" \
    ZLIB_LIBS="-L$work/zlib-installed/lib -lz" \
    ./configure --prefix="$prefix" --without-ensurepip --disable-test-modules &&
    make -j2 && make install) >>log 2>&1
"$prefix/bin/python3" -I -c 'import zlib, _struct, sysconfig; print("musl-python:", sysconfig.get_config_var("EXT_SUFFIX"))'
cd ..
rm -rf "$work"
