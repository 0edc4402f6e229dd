;; Uses a folder that nobody gave it, by the number that the first one would have.
(module
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.is-same-object"
    (func $is-same (param i32 i32) (result i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (drop (call $is-same (i32.const 1) (i32.const 1)))
    (call $ack)))
