# The outside libraries as tests/gpu/pack left them, under the names that they have where pkg-config finds them.
foreach(pair PROTOBUF_C:protobuf-c YAML:yaml JANSSON:jansson XXHASH:xxhash)
    string(REPLACE ":" ";" pair ${pair})
    list(GET pair 0 name)
    list(GET pair 1 library)
    add_library(PkgConfig::${name} STATIC IMPORTED GLOBAL)
    set_target_properties(PkgConfig::${name} PROPERTIES
        IMPORTED_LOCATION ${KD_PACKED}/lib/lib${library}.a
        INTERFACE_INCLUDE_DIRECTORIES ${KD_PACKED}/include)
endforeach()
