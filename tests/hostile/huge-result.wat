;; Answers with a reason of 8 MiB.
(module
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (drop (memory.grow (i32.const 128)))
    (memory.fill (i32.const 262144) (i32.const 120) (i32.const 8388608))
    (call $reject (i32.const 262144) (i32.const 8388608))))
