// JPEG through libjpeg-turbo. The library reports a fatal error through a callback that must not return, so it is left
// by longjmp; the code between setjmp and the library's calls owns nothing that would need a destructor.
#include <cstddef>
#include <cstdio>
// libjpeg's headers use FILE and size_t without declaring them.
#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <csetjmp>
#include <cstdlib>

#include "core/image_formats.h"

namespace minidl {

namespace {

struct JpegErrors : jpeg_error_mgr {
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];

  JpegErrors() {
    jpeg_std_error(this);
    error_exit = leave;
    emit_message = on_message;
  }
  JpegErrors(const JpegErrors&) = delete;  // libjpeg keeps a pointer to it
  JpegErrors& operator=(const JpegErrors&) = delete;

  [[noreturn]] static void leave(j_common_ptr info) {
    JpegErrors* self = static_cast<JpegErrors*>(info->err);
    self->format_message(info, self->message);
    std::longjmp(self->jump, 1);
  }
  // libjpeg only warns of a truncated file and makes up the rest; Pillow refuses it, and so do we.
  static void on_message(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) leave(info);
  }
};

// Runs step; false if libjpeg gave up, with the reason in errors.message. step may not hold objects with destructors.
template <class Step>
bool succeeds(JpegErrors& errors, const Step& step) {
  if (setjmp(errors.jump)) return false;
  step();
  return true;
}

// Pillow's conversion of one row, from the inverted values that Adobe's programs store.
void inverted_cmyk_to_rgb(const std::uint8_t* cmyk, std::uint8_t* rgb, int width) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const int black = cmyk[3];
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - cmyk[c]) * black + 128;
      rgb[c] = static_cast<std::uint8_t>(std::clamp(black - ((product + (product >> 8)) >> 8), 0, 255));
    }
  }
}

}  // namespace

Image decode_jpeg(Bytes bytes, const std::string& name) {
  struct Decoder : jpeg_decompress_struct {
    Decoder() : jpeg_decompress_struct{} {}
    ~Decoder() { jpeg_destroy_decompress(this); }
  };
  JpegErrors errors;
  Decoder decoder;
  decoder.err = &errors;
  const auto require = [&](const auto& step) {
    check_image(succeeds(errors, step), name, "the JPEG data is broken (", errors.message, ")");
  };

  require([&] {
    jpeg_create_decompress(&decoder);
    jpeg_mem_src(&decoder, bytes.data(), bytes.size());
    jpeg_read_header(&decoder, TRUE);
  });
  const bool cmyk = decoder.num_components == 4;
  check_image(cmyk || decoder.num_components == 1 || decoder.num_components == 3, name, "the JPEG has ",
              decoder.num_components, " colour components, expected 1, 3 or 4");
  decoder.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  Image image = make_rgb(decoder.image_width, decoder.image_height, bytes.size(), name);
  std::vector<std::uint8_t> cmyk_row(cmyk ? static_cast<std::size_t>(image.width) * 4 : 0);

  require([&] {
    jpeg_start_decompress(&decoder);
    while (decoder.output_scanline < decoder.output_height) {
      std::uint8_t* rgb_row = image.row(static_cast<int>(decoder.output_scanline));
      JSAMPROW row = cmyk ? cmyk_row.data() : rgb_row;
      jpeg_read_scanlines(&decoder, &row, 1);
      if (cmyk) inverted_cmyk_to_rgb(row, rgb_row, image.width);
    }
  });
  return image;
}

std::vector<std::uint8_t> encode_jpeg(const Image& image, int quality) {
  struct Encoder : jpeg_compress_struct {
    std::uint8_t* buffer = nullptr;
    unsigned long size = 0;
    Encoder() : jpeg_compress_struct{} {}
    ~Encoder() {
      jpeg_destroy_compress(this);
      std::free(buffer);
    }
  };
  const std::string name = "encode_jpeg";
  check_image(image.width > 0 && image.height > 0, name, "the image is empty");
  check_image(quality >= 1 && quality <= 100, name, "expected a quality of 1 to 100, got ", quality);
  JpegErrors errors;
  Encoder encoder;
  encoder.err = &errors;
  const bool done = succeeds(errors, [&] {
    jpeg_create_compress(&encoder);
    jpeg_mem_dest(&encoder, &encoder.buffer, &encoder.size);
    encoder.image_width = static_cast<JDIMENSION>(image.width);
    encoder.image_height = static_cast<JDIMENSION>(image.height);
    encoder.input_components = image.channels;
    encoder.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&encoder);
    jpeg_set_quality(&encoder, quality, TRUE);
    jpeg_start_compress(&encoder, TRUE);
    while (encoder.next_scanline < encoder.image_height) {
      // libjpeg takes a pointer to mutable rows but does not write to them.
      JSAMPROW row = const_cast<JSAMPROW>(image.row(static_cast<int>(encoder.next_scanline)));
      jpeg_write_scanlines(&encoder, &row, 1);
    }
    jpeg_finish_compress(&encoder);
  });
  check_image(done, name, "an image of ", image.width, " x ", image.height, " pixels cannot be encoded (",
              errors.message, ")");
  return {encoder.buffer, encoder.buffer + encoder.size};
}

}  // namespace minidl
