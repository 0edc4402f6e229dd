;; Gives its answer, and loops when the host says that the answer was read.
(module
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32) (call $ack))
  (func (export "cabi_post_sandpost:plugin/handler@0.1.0#handle") (param i32)
    (loop $again (br $again))))
