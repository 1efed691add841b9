# The headers that other projects include, below minidl/. In the repository they include each other from its root; outside,
# names like core/ would not be ours to take, so these are copies that begin with minidl/. <minidl/minidl.h> has them all.
set(public_headers
    kernels/backend.h kernels/prepared_weights.h
    core/adam.h core/arrays.h core/autograd.h core/check.h core/file.h core/folder_sampler.h core/image.h core/image_folder.h
    core/image_uploads.h core/ops.h core/random.h core/recorded_work.h core/safetensors.h core/shape.h core/storage.h
    core/tensor.h core/torch_file.h core/zip.h
    layers/layers.h layers/module.h
    models/checkpoint.h models/checkpoint_conversion.h models/checkpoint_info.h models/discriminator.h models/generator.h
    models/ugatit.h)

function(publish_header source name)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  file(READ ${source} text)
  string(REGEX REPLACE "#include \"(core|kernels|layers|models)/" "#include \"minidl/\\1/" text "${text}")
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/include/minidl/${name} CONTENT "${text}" @ONLY)
endfunction()

set(includes "")
foreach(header IN LISTS public_headers)
  publish_header(${PROJECT_SOURCE_DIR}/${header} ${header})
  string(APPEND includes "#include \"minidl/${header}\"\n")
endforeach()
publish_header(${PROJECT_BINARY_DIR}/generated/core/version.h core/version.h)
string(APPEND includes "#include \"minidl/core/version.h\"")
publish_header(${CMAKE_CURRENT_LIST_DIR}/minidl.h.in minidl.h)
