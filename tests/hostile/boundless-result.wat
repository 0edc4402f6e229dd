;; Answers with a reason of 2 GiB, most of which lies outside of its memory.
(module
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $reject (i32.const 65536) (i32.const 2147483647))))
