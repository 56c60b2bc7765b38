# SPDX-License-Identifier: Apache-2.0
# cmake -D ROOT=... -D SETTINGS=... -D OUTPUT=... -P build_id.cmake writes OUTPUT, the definition of `build_id`: the hash of the
# file SETTINGS (compiler, flags, names of the sources) and of every source that it names, relative to ROOT.
file(STRINGS ${SETTINGS} sources REGEX "^source ")
file(SHA256 ${SETTINGS} hashes)
foreach(source IN LISTS sources)
  string(REPLACE "source " "" source ${source})
  file(SHA256 ${ROOT}/${source} hash)
  string(APPEND hashes "\n${source} ${hash}")
endforeach()
string(SHA256 id "${hashes}")
string(SUBSTRING ${id} 0 16 id)
file(WRITE ${OUTPUT} "#include \"build_id.h\"\n\nconst char* understudy::build_id() { return \"${id}\"; }\n")
